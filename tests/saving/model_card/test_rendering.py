"""The card of a trainer, whatever was trained and however."""

import math
import re

import pytest
import yaml
from huggingface_hub import ModelCardData
from huggingface_hub.repocard_data import eval_results_to_model_index
from transformers import ModernBertConfig, ModernBertForMaskedLM
from transformers.pipelines import SUPPORTED_TASKS

from adversarial_mlm import (
    AdversarialMLMTrainingArguments,
    DataCollatorForAdversarialMLM,
    DataCollatorForRandomMLM,
    __version__,
)
from adversarial_mlm.recipes.recipe import parse_recipe
from adversarial_mlm.saving import model_card
from adversarial_mlm.saving.hub import files_of_model
from tests.saving.model_card.conftest import check, pictures

PRESET = {"hidden_size": 128, "num_hidden_layers": 4, "num_attention_heads": 4, "intermediate_size": 512}
FIGURES = {"eval_loss": 2.5, "eval_perplexity": 12.18, "eval_accuracy": 0.2}


@pytest.fixture
def adversarial(tokenizer, make_noiser):
    return DataCollatorForAdversarialMLM(tokenizer, noiser=make_noiser())


@pytest.fixture
def at_random(tokenizer):
    return DataCollatorForRandomMLM(tokenizer)


def test_the_card_is_valid_and_tells_how_the_model_was_made(adversarial, make_trainer, card_of):
    card = card_of(make_trainer(adversarial, **FIGURES))
    assert card.data.library_name == "transformers" and card.data.pipeline_tag in SUPPORTED_TASKS
    assert "adversarial-masking" in card.data.tags and "license" not in card.data.to_dict()
    assert (
        "# my-model\n" in card.text
        and "residues in 4 proteins.\nSome residues were masked at random. A second network" in card.text
    )
    assert 'subfolder="noiser"' in card.text and "10 noiser updates, then 10 encoder updates" in card.text
    assert "adamw_torch_fused" in card.text and "chooses positions and how to mask them" in card.text
    assert "more than 510 residues" in card.text and "licence of the data: not given" in card.text
    assert "|         2.500 |     12.180 |    0.200 |" in card.text
    assert "adds one with random weights" in card.text and "background" not in card.text
    assert f"adversarial-mlm {__version__}, torch 2" in card.text
    assert "`seed` 42, `data_seed` 42, `eval_mask_seed` 2021" in card.text and "float32" in card.text


def test_the_card_of_a_random_run_speaks_of_no_noiser(at_random, make_trainer, card_of):
    card = card_of(make_trainer(at_random, noiser_steps=7))
    assert "noiser" not in card.text and "20 % of the residues" in card.text and "## Results" not in card.text
    assert "adversarial-masking" not in card.data.tags and "masked residues were chosen at random" in card.text


def test_only_the_newest_figures_stand_in_the_card(at_random, make_trainer, card_of):
    trainer = make_trainer(at_random, eval_a_loss=2.0, eval_a_perplexity=7.4, eval_a_accuracy=0.3)
    trainer.state.log_history.append({"step": 3, "eval_a_loss": 1.5, "eval_a_perplexity": 4.5, "eval_a_accuracy": 0.4})
    trainer.state.global_step = 5
    card = card_of(trainer)
    assert re.search(r"\| a +\| +1\.500 \| +4\.500 \| +0\.400 \|\n", card.text) and "2.000" not in card.text
    assert "after 3 encoder updates" in card.text  # when they were measured, and not when the weights were saved


def test_figures_are_results_for_the_hub_and_come_back_as_they_were(at_random, make_trainer, card_of):
    figures = {}
    for name, loss in (("members", 2.76543), ("families", 2.9)):
        figures |= {f"eval_{name}_loss": loss, f"eval_{name}_perplexity": math.exp(loss), f"eval_{name}_accuracy": 0.1}
    card = card_of(make_trainer(at_random, eval_mask_rate=0.2, **figures))
    found = {(r.dataset_config, r.metric_type): r.metric_value for r in card.data.eval_results}
    assert found == {
        ("members", "cross_entropy"): 2.7654, ("members", "perplexity"): 15.8859, ("members", "accuracy"): 0.1,
        ("families", "cross_entropy"): 2.9, ("families", "perplexity"): 18.1741, ("families", "accuracy"): 0.1,
    }  # fmt: skip
    assert {r.task_type for r in card.data.eval_results} <= set(SUPPORTED_TASKS)
    assert card.data.eval_results[0].metric_args == {"mask_rate": 0.2, "mask_seed": 2021}
    assert card.data.model_name == "my-model" and "20 % of the residues replaced by" in card.text


def test_a_context_gap_is_told_with_what_it_means(at_random, make_trainer, card_of):
    figures = {"eval_members_loss": 2.5, "eval_members_perplexity": 12.0, "eval_members_accuracy": 0.1}
    assert "context gap" not in card_of(make_trainer(at_random, **figures)).text
    card = card_of(make_trainer(at_random, **figures, eval_members_context_gap=0.0215))
    assert "| context gap |" in card.text and "0.021 |" in card.text and "makes little use of the context" in card.text


def test_what_is_not_finite_is_told_and_kept_from_the_hub(at_random, make_trainer, card_of):
    card = card_of(make_trainer(at_random, eval_loss=math.nan, eval_perplexity=math.inf, eval_accuracy=0.0))
    assert re.search(r"\| validation +\| +nan \| +inf \| +0\.000 \|", card.text)
    assert [(r.metric_type, r.metric_value) for r in card.data.eval_results] == [("accuracy", 0.0)]


def test_without_held_out_data_the_card_says_so(at_random, make_trainer, card_of):
    card = card_of(make_trainer(at_random, held_out=False))
    assert "No proteins were held out." in card.text and "It was not evaluated on held-out proteins" in card.text
    assert card.data.eval_results is None and "model-index" not in card.data.to_dict()


@pytest.mark.parametrize(
    ("base", "told", "in_metadata"),
    [
        ("Rostlab/prot_bert", "`Rostlab/prot_bert`", "Rostlab/prot_bert"),
        ("{tmp}/first", "`first`", None),
        ("runs/first", "`runs/first`", None),
    ],
)
def test_a_run_from_another_model_says_from_which(
    at_random, make_trainer, card_of, tmp_path, monkeypatch, base, told, in_metadata
):
    monkeypatch.chdir(tmp_path)
    (tmp_path / "runs" / "first").mkdir(parents=True)
    trainer = make_trainer(at_random, **FIGURES)
    trainer.run_facts["base_model"] = base.replace("{tmp}", str(tmp_path))
    card = card_of(trainer)
    assert f"started from the weights of {told}." in card.text and f"the limits of {told}," in card.text
    assert card.data.base_model == in_metadata and str(tmp_path) not in str(card)
    assert (
        "TAPE" not in card.text
        and "untrained" not in card.text
        and "and the model that training started from" in card.text
    )


def test_a_preset_is_told_from_tapes_transformer_and_another_bert_is_not(
    at_random, make_encoder, make_trainer, card_of
):
    card = card_of(make_trainer(at_random, make_encoder(**PRESET)))
    assert "(preset `tiny`)" in card.text and "TAPE's transformer is a different network" in card.text
    assert "TAPE" not in card_of(make_trainer(at_random)).text


def test_positions_that_no_training_window_reached_are_a_limit(tokenizer, make_encoder, make_trainer, card_of):
    for max_length, untrained in ((128, True), (512, False)):
        trainer = make_trainer(DataCollatorForRandomMLM(tokenizer, max_length=max_length), make_encoder(**PRESET))
        assert ("positions 128 to 511 are untrained" in card_of(trainer).text) == untrained


def test_an_architecture_without_a_pooler_has_no_word_about_one(at_random, tokenizer, make_trainer, card_of):
    config = ModernBertConfig(
        vocab_size=len(tokenizer), hidden_size=16, num_hidden_layers=1, num_attention_heads=2, intermediate_size=32,
        pad_token_id=0, cls_token_id=2, sep_token_id=3, bos_token_id=2, eos_token_id=3,
    )  # fmt: skip
    text = card_of(make_trainer(at_random, ModernBertForMaskedLM(config))).text
    assert "pool" not in text.lower() and "`ModernBertForMaskedLM`" in text and "TAPE" not in text


def test_a_name_on_the_hub_stands_in_the_snippets(at_random, make_trainer, card_of):
    trainer = make_trainer(at_random, **FIGURES)
    trainer.hub_model_id = "somebody/protein-bert"  # as pushing to the Hub sets it
    card = card_of(trainer)
    assert 'model = AutoModelForMaskedLM.from_pretrained("somebody/protein-bert")\n' in card.text
    assert "PATH-OR-NAME" not in card.text and "# protein-bert\n" in card.text
    assert card.data.model_name == "protein-bert"


def test_a_card_can_be_written_after_another_runs_arguments_were_made(at_random, make_trainer, card_of, tmp_path):
    trainer = make_trainer(at_random, bf16=True)
    AdversarialMLMTrainingArguments(output_dir=str(tmp_path / "other"), use_cpu=True)  # accelerate starts over
    assert "float32 weights, bf16 mixed precision" in card_of(trainer).text


@pytest.mark.parametrize(("source", "names"), [("owner/proteins", ["owner/proteins"]), ("a/proteins.fasta", None)])
def test_a_dataset_of_the_hub_stands_in_the_metadata(
    at_random, make_trainer, card_of, tmp_path, monkeypatch, source, names
):
    monkeypatch.chdir(tmp_path)
    (tmp_path / "a").mkdir()
    (tmp_path / "a" / "proteins.fasta").touch()
    trainer = make_trainer(at_random, held_out=False)
    trainer.run_facts["recipe"] = parse_recipe(["--train_data", source])
    card = card_of(trainer)
    assert card.data.datasets == names and f"- sources: `{source}`\n" in card.text


@pytest.mark.parametrize("folder", [".", "..", "./"])
def test_a_folder_without_a_name_gives_none_of_this_machines(at_random, make_trainer, card_of, folder):
    assert "# protein-encoder\n" in card_of(make_trainer(at_random, output_dir=folder)).text


def test_a_collapse_is_told_where_these_weights_have_seen_it(adversarial, make_trainer, card_of):
    trainer = make_trainer(adversarial, metric_for_best_model="loss", **FIGURES)
    trainer.state.log_history.append({"step": 20, "collapse": 1.0})
    trainer.state.global_step = 30
    assert "**Training collapsed** at encoder update 20" in card_of(trainer).text
    trainer.loaded_best_step = 10
    assert "Training collapsed at encoder update 20, after these weights were saved." in card_of(trainer).text


def test_the_best_weights_come_with_their_own_figures(adversarial, make_trainer, card_of):
    trainer = make_trainer(adversarial, step=2, metric_for_best_model="eval_loss", **FIGURES)
    trainer.state.log_history.append({**FIGURES, "step": 4, "eval_loss": 2.75})
    trainer.state.global_step = trainer.state.max_steps = 6
    trainer.loaded_best_step = 2
    card = card_of(trainer)
    assert (
        "2 of 6 encoder updates" in card.text and "the best `eval_loss` of all evaluated ones (update 2)" in card.text
    )
    assert "2.500" in card.text and "2.750" not in card.text and card.data.eval_results[0].metric_value == 2.5


@pytest.mark.parametrize(
    ("settings", "words"),
    [
        ({"noiser_steps": 1, "encoder_steps": 5}, ["1 noiser update, then 5 encoder updates", "reward `loss`"]),
        (
            {"noiser_update": "reversal", "noiser_every": 3, "reversal_strength": ["-1@0", "1@1000"]},
            ["one of 3 encoder updates; reversal strength (-1 at update 0, 1 at update 1,000)", "gradient reversal"],
        ),
        (
            {"noiser_update": "none"},
            ["- the noiser was not trained in this run", "others. It was not trained in this run."],
        ),
        ({"noiser_reward": "reducible", "slow_encoder_decay": 0.9}, ["slow copy of the encoder (decay 0.9)"]),
        ({"adversarial_share": ["0@0", "1@50"]}, ["its share of these masks: (0 at update 0, 1 at update 50)"]),
        ({"loss_scope": "all", "unmasked_weight": 0.5}, ["cross-entropy of all residues", "not masked: 0.5"]),
        ({"importance_exponent": 1.0}, ["importance weights with exponent 1"]),
        (
            {"noiser_max_grad_norm": 0.0, "noiser_learning_rate_factor": ["0.5"]},
            ["schedule of the encoder times 0.5", "not clipped"],
        ),
        ({"warmup_steps": 7, "lr_scheduler_type": "cosine"}, ["`cosine` schedule after 7 warm-up updates"]),
    ],
)
def test_every_game_is_told_as_it_was_played(adversarial, make_trainer, card_of, settings, words):
    text = card_of(make_trainer(adversarial, **settings)).text
    for told in words:
        assert told in text
    assert ("reward" in text.split("The noiser:")[1].split("```")[0]) == (settings.get("noiser_update") != "none")
    for option in settings:
        assert f"| `{option}` " in text  # in the table of what differs from the defaults


@pytest.mark.parametrize(
    ("view", "words"),
    [
        ("full", "it sees all residues\n"),
        ("context", "all residues except the one"),
        ("blind", "(candidate set: 30 % of the residues)"),
    ],
)
def test_what_the_noiser_sees_is_told(tokenizer, make_noiser, make_trainer, card_of, view, words):
    collator = DataCollatorForAdversarialMLM(tokenizer, noiser=make_noiser(view=view))
    assert words in card_of(make_trainer(collator)).text


def test_the_noisers_figures_stand_beside_the_random_ones(adversarial, make_trainer, card_of):
    noisers = {
        "adversarial_loss": 2.7,
        "random_loss": 2.6,
        "mask_gap": 0.05,
        "background_loss": 2.9,
        "enrichment_W": 2.25,
    }
    figures = {**FIGURES, **{f"eval_{name}": value for name, value in noisers.items()}, "eval_enrichment_max": 2.25}
    text = card_of(make_trainer(adversarial, **figures)).text
    assert re.search(r"\| validation +\| +2\.500 \| +12\.180 \| +0\.200 \| +2\.900 \|", text)
    assert "The *background predictor* predicts each" in text
    assert re.search(r"\| validation +\| +2\.700 \| +2\.600 \| \+0\.050 \| +W 2\.2× \|", text)


def test_the_citations_are_those_of_the_repository(at_random, make_trainer, card_of, repository):
    text = card_of(make_trainer(at_random)).text
    software = yaml.safe_load((repository / "CITATION.cff").read_text())
    paper = software["references"][0]
    for told in (software["title"], software["version"], software["license"], software["authors"][0]["name"]):
        assert f"{{{told}}}" in text
    names = " and ".join(f"{author['family-names']}, {author['given-names']}" for author in paper["authors"])
    for told in (paper["title"], names, str(paper["year"]), paper["url"]):
        assert f"{{{told}}}" in text
    assert paper["identifiers"][0]["value"] in text


@pytest.mark.parametrize(
    ("there", "shown"),
    [(["mask_policy.png", "report.png"], "mask_policy.png"), (["report.png"], "report.png"), (["other.png"], None)],
)
def test_the_picture_of_a_report_is_shown_and_goes_with_a_push(make_facts, tmp_path, there, shown):
    for name in there:
        (tmp_path / name).write_bytes(b"png")
    model_card.write(make_facts(), tmp_path)
    text = (tmp_path / "README.md").read_text()
    check(text)
    assert pictures(text) == ([shown] if shown else [])
    assert {"README.md", *pictures(text)} <= files_of_model(str(tmp_path)).keys()
    assert ("What the noiser masked in the last quarter" in text) == (shown == "mask_policy.png")


def test_the_metadata_are_what_the_hub_reads(at_random, make_trainer, card_of, tmp_path):
    trainer = make_trainer(at_random, **FIGURES)
    trainer.run_facts["recipe"] = parse_recipe(["--train_data", "owner/proteins", "--model_license", "apache-2.0"])
    trainer.run_facts["data"], trainer.eval_dataset = {}, None
    card_of(trainer)
    front = yaml.safe_load((tmp_path / "README.md").read_text().split("---\n")[1])
    data = ModelCardData(**front)  # an error in `model-index` is raised
    assert data.model_name == "my-model" and len(data.eval_results) == 3 and data.license == "apache-2.0"
    assert eval_results_to_model_index("my-model", data.eval_results) == front["model-index"]
    assert front["datasets"] == ["owner/proteins"] and front["widget"] == [{"text": "MKTAYIAKQ<mask>QISFVKSHFSRQ"}]
    for result in front["model-index"][0]["results"]:
        assert result["task"]["type"] == front["pipeline_tag"] and {"type", "name"} <= result["dataset"].keys()
        assert all(isinstance(metric["value"], float) and metric["type"] for metric in result["metrics"])


def test_a_reader_sees_less_than_half_of_what_the_card_has(adversarial, make_trainer, card_of, repository):
    trainer = make_trainer(adversarial, **FIGURES)
    trainer.run_facts["command"] = "-m adversarial_mlm train demo"
    shown, details = card_of(trainer).text.split("<details>")
    assert len(shown.splitlines()) <= 120 and len(shown.split()) <= 720
    assert "adv-mlm train demo" in shown and "adamw_torch_fused" in details and "`seed` 42" in details
