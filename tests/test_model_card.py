import datasets
from huggingface_hub import ModelCard

from adversarial_mlm import (
    AdversarialMLMTrainer,
    AdversarialMLMTrainingArguments,
    DataCollatorForAdversarialMLM,
    DataCollatorForRandomMLM,
    model_card,
)


def card_of(collator, encoder, tmp_path, **history) -> str:
    data = datasets.Dataset.from_dict({"sequence": ["ACDEFGHIKLMNPQRSTVWY"] * 4})
    args = AdversarialMLMTrainingArguments(output_dir=str(tmp_path / "my-model"), use_cpu=True, report_to=[])
    trainer = AdversarialMLMTrainer(encoder, args, collator, train_dataset=data, eval_dataset=data)
    trainer.state.log_history.append({"step": 0, **history})
    trainer.run_facts["data"] = "proteins.fasta, 4 proteins"
    model_card.write(trainer, str(tmp_path))
    return (tmp_path / "README.md").read_text()


def test_the_card_is_valid_and_tells_how_the_model_was_made(tokenizer, make_encoder, make_noiser, tmp_path):
    collator = DataCollatorForAdversarialMLM(tokenizer, noiser=make_noiser())
    text = card_of(collator, make_encoder(), tmp_path, eval_loss=2.5, eval_perplexity=12.18, eval_accuracy=0.2)
    card = ModelCard(text)
    assert card.data.library_name == "transformers" and "adversarial-masking" in card.data.tags
    assert "# my-model" in text and "proteins.fasta, 4 proteins" in text
    assert 'subfolder="noiser"' in text and "10 noiser updates to every 10 of the encoder" in text
    assert "adamw_torch_fused" in text and "(where and how)" in text and "more than 510 residues" in text
    assert "| validation | 2.500 | 12.180 | 0.200 |" in text
    assert "add_pooling_layer=False" in text


def test_the_card_of_a_random_run_speaks_of_no_noiser(tokenizer, make_encoder, tmp_path):
    text = card_of(DataCollatorForRandomMLM(tokenizer), make_encoder(), tmp_path)
    assert "noiser" not in text and "20 % of the residues" in text and "## Evaluation" not in text


def test_only_the_newest_figures_stand_in_the_card(tokenizer, make_encoder, tmp_path):
    text = card_of(
        DataCollatorForRandomMLM(tokenizer), make_encoder(), tmp_path,
        eval_a_loss=2.0, eval_a_perplexity=7.4, eval_a_accuracy=0.3, eval_b_loss=3.0, eval_b_perplexity=20.1,
        eval_b_accuracy=0.1,
    )  # fmt: skip
    assert "| a | 2.000 | 7.400 | 0.300 | – |" in text and "| b | 3.000 | 20.100 |" in text
