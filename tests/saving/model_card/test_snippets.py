"""The three snippets of a card do what the card says, in an interpreter of their own."""

import pytest
import torch
from transformers import BertForMaskedLM, BertTokenizer, ModernBertConfig, ModernBertForMaskedLM

from adversarial_mlm import DataCollatorForAdversarialMLM, DataCollatorForRandomMLM
from adversarial_mlm.models.loading import load_encoder
from adversarial_mlm.saving.model_card.rendering import BASE_PLACEHOLDER, EXAMPLE, PLACEHOLDER
from tests.helpers import snippets
from tests.helpers.exhaustive import exhaustive
from tests.helpers.snippets import python_blocks

KEEP = ("answers", "embedding")


@pytest.fixture
def run_snippets(tmp_path):
    def run(trainer, base: str = "") -> tuple[list[dict], str]:
        trainer.save_model()
        card = open(f"{trainer.args.output_dir}/README.md", encoding="utf-8").read().replace(BASE_PLACEHOLDER, base)
        blocks = python_blocks(card.replace(PLACEHOLDER, trainer.args.output_dir))
        results, printed = snippets.run_snippets([("card", code) for code in blocks], tmp_path, KEEP)
        return [result.values for result in results], printed

    return run


@torch.no_grad()
def check_the_snippets(results: list[dict], printed: str, trainer) -> None:
    """Compare with the mean over the residues, and with the logits at the masked position, of the trained model."""
    model, encode = trainer.model.eval(), trainer.data_collator.sequence_encoder
    tokenizer = trainer.data_collator.tokenizer
    encoder = model.get_base_model() if hasattr(model, "get_base_model") else model
    batch = encode([{"sequence": EXAMPLE}])
    mean = encoder.base_model(input_ids=batch["input_ids"]).last_hidden_state[batch["residue_mask"]].mean(dim=0)
    batch["input_ids"][0, 10] = encode.vocabulary.mask_token_id
    logits = model(input_ids=batch["input_ids"]).logits[0, 10]
    scores, ids = logits.softmax(dim=-1).topk(5)
    answers, embedding = results[0]["answers"], results[1]["embedding"]
    assert [answer["token"] for answer in answers] == ids.tolist()
    assert [answer["score"] for answer in answers] == pytest.approx(scores.tolist(), rel=1e-4)
    torch.testing.assert_close(torch.tensor(embedding), mean, rtol=1e-4, atol=1e-5)
    old, new = tokenizer.convert_tokens_to_ids([EXAMPLE[9], "W"])
    assert f"{EXAMPLE[9]}10W: {(logits[new] - logits[old]).item():+.2f} nats\n" in printed


@pytest.mark.slow
def test_of_an_adversarial_run(tokenizer, make_noiser, make_trainer, run_snippets):
    collator = DataCollatorForAdversarialMLM(tokenizer, make_noiser(view="blind"), max_length=64)
    trainer = make_trainer(collator)
    check_the_snippets(*run_snippets(trainer), trainer)


@pytest.mark.exhaustive
@pytest.mark.slow
def test_of_a_random_run_with_a_tokenizer_that_needs_spaces(make_encoder, make_trainer, run_snippets, tmp_path):
    special = ["[PAD]", "[UNK]", "[CLS]", "[SEP]", "[MASK]"]
    (tmp_path / "vocab.txt").write_text("\n".join([*special, *"LAGVESIKRDTPNQFYMHCWXUBZO"]))
    tokenizer = BertTokenizer(str(tmp_path / "vocab.txt"), do_lower_case=False)
    trainer = make_trainer(DataCollatorForRandomMLM(tokenizer), make_encoder(vocab_size=30))
    check_the_snippets(*run_snippets(trainer), trainer)


@pytest.mark.exhaustive
@pytest.mark.slow
def test_of_a_model_without_a_pooler(tokenizer, make_trainer, run_snippets):
    torch.manual_seed(0)
    config = ModernBertConfig(
        vocab_size=len(tokenizer), hidden_size=16, num_hidden_layers=1, num_attention_heads=2, intermediate_size=32,
        pad_token_id=0, cls_token_id=2, sep_token_id=3, bos_token_id=2, eos_token_id=3,
    )  # fmt: skip
    trainer = make_trainer(DataCollatorForRandomMLM(tokenizer), ModernBertForMaskedLM(config))
    check_the_snippets(*run_snippets(trainer), trainer)


@pytest.mark.slow
@pytest.mark.parametrize("named", [True, exhaustive(False)])
def test_of_an_adapter(save_encoder, make_trainer, run_snippets, named):
    peft = pytest.importorskip("peft")
    folder = save_encoder("bert")
    encoder, tokenizer = load_encoder(folder)
    if not named:
        encoder = BertForMaskedLM(encoder.config)
        encoder.load_state_dict(load_encoder(folder)[0].state_dict())
        encoder.name_or_path = encoder.config._name_or_path = ""
    config = peft.LoraConfig(r=2, target_modules="all-linear", init_lora_weights=False)  # of the head, too
    trainer = make_trainer(DataCollatorForRandomMLM(tokenizer), peft.get_peft_model(encoder, config))
    check_the_snippets(*run_snippets(trainer, base=folder), trainer)
