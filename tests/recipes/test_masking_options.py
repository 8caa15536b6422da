"""Ways of masking as options of a recipe: what is refused, and a run with weights of residues."""

import json

import pytest
import torch

from adversarial_mlm.recipes.recipe import RecipeError, recipe_of
from adversarial_mlm.recipes.run import pretrain
from adversarial_mlm.utils.errors import CorpusError
from tests.helpers.trainer_helpers import log_of


def read(**options):
    return recipe_of({"train_data": ["x"], "use_cpu": True, **options}, [], "mine.yaml")


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"mask_rate": "75@0"}, "mine.yaml: mask_rate must be above 0 and at most 1"),
        ({"mask_rate_curve": "step"}, "mask_rate_curve is step, but mask_rate is not given"),
        ({"mask_rate_curve": "square"}, "mask_rate_curve must be one of linear, cosine, step, got .square"),
        ({"span_length": 3.0}, "span_length only applies to masking: span, but masking is adversarial: remove it"),
        ({"masking": "span", "mask_weights": "w.csv"}, "mask_weights only applies to masking: weighted, but .* span"),
        (
            {"masking": "weighted"},
            "masking is weighted, but mask_weights is missing: give tables with weights of residues",
        ),
        ({"mask_weights_column": "x"}, "mask_weights_column is given, but mask_weights is not"),
        ({"masking": "spans"}, "masking .*spans"),
        (
            {"protein_share": 0.5},
            "protein_share only applies to masking: chosen_proteins, but masking is adversarial: remove it",
        ),
        ({"masking": "chosen_proteins", "noiser_reward": "learnability"}, "learnability needs a teacher: set"),
    ],
)
def test_options_that_make_no_sense_are_refused_in_a_sentence(options, message):
    with pytest.raises(RecipeError, match=message):
        read(**options)


def test_one_rate_may_be_a_number_or_a_text():
    assert read(mask_rate=0.4).masking.mask_rate == ["0.4"]
    assert read(mask_rate="75%@0 15%@100%").masking.mask_rate == ["75%@0 15%@100%"]
    assert read(mask_rate=[""]).masking.mask_rate == []


def test_a_teacher_is_an_option_of_a_recipe():
    training = read(soft_targets="0.7@0 0@100%", teacher="ema").training
    assert training.has_teacher and training.soft_target_ramp(200)(100) == pytest.approx(0.35)
    assert not read().training.has_teacher
    with pytest.raises(RecipeError, match="mine.yaml: loss_weights: learnability needs a teacher"):
        read(loss_weights="learnability")
    with pytest.raises(RecipeError, match="teacher .*reference, ema"):
        read(loss_weights="learnability", teacher="profile")


def test_a_preset_has_a_noiser_choose_the_proteins(repository, tmp_path):
    fasta = repository / "examples" / "data" / "demo.fasta"
    options = {"train_data": [str(fasta)], "output_dir": str(tmp_path / "run"), "preset": "chosen-proteins"}
    options |= {"encoder": "tiny", "max_length": 64, "holdout_random": 0.02, "max_steps": 6, "use_cpu": True}
    options |= {"per_device_train_batch_size": 8, "protein_share": 0.25, "noiser_every": 2, "logging_steps": 2}
    options |= {"cache_dir": str(tmp_path / "cache"), "report": False, "report_to": "none", "disable_tqdm": True}
    trainer = pretrain(recipe_of(options, [], "test"))
    assert trainer.noiser.config.view == "blind" and trainer.data_collator.rules.protein_share == 0.25
    training = [entry for entry in log_of(trainer) if "choice_lift" in entry]
    assert [entry["step"] for entry in training] == [2, 4, 6] and training[-1]["choice_lift"] > 0
    card = (tmp_path / "run" / "README.md").read_text()
    assert (
        "chose the proteins of each update" in card and "it chooses 25 % of the proteins that an update reads" in card
    )
    assert "measured by the teacher: a moving average of the encoder (decay 0.999)" in card
    assert "updates by what the teacher measures, at one of 2 encoder updates" in card and "adv-mlm mask" not in card
    # the same run without a noiser: the options of the noiser have no effect
    options |= {"masking": "random", "protein_share": None, "output_dir": str(tmp_path / "random")}
    trainer = pretrain(recipe_of(options, [], "test"))
    assert trainer.noiser is None and trainer.game.teacher is None


@pytest.fixture
def weights_file(repository, tmp_path):
    records = (repository / "examples" / "data" / "demo.fasta").read_text()[1:].split("\n>")

    def write(change=lambda weights: weights) -> str:
        lines = []
        for record in records:
            header, *sequence = record.split("\n")
            name = header.split()[0].split("|")[1] if "|" in header.split()[0] else header.split()[0]
            lines.append(
                {"id": name, "conserved": change([float(letter in "CW") + 0.01 for letter in "".join(sequence)])}
            )
        (tmp_path / "w.jsonl").write_text("".join(json.dumps(line) + "\n" for line in lines if line["conserved"]))
        return str(tmp_path / "w.jsonl")

    return write


WEIGHTED = {"preset": "recommended", "masking": "weighted", "mask_weights_column": "conserved", "max_steps": 2}


def test_a_run_masks_by_the_weights_of_its_file(make_recipe, weights_file):
    trainer = pretrain(make_recipe(**WEIGHTED, mask_weights=weights_file(), mask_rate="10%"))
    assert trainer.noiser is None and trainer.data_collator.rules.positions == "weighted"
    assert log_of(trainer)[0]["mask_rate"] == pytest.approx(0.1, abs=0.01)
    batch = trainer.data_collator([trainer.train_dataset[i] for i in range(0, 400, 10)])
    ids = torch.tensor(trainer.processing_class.convert_tokens_to_ids(["C", "W"]))
    masked, rare = trainer.data_collator.corrupt(batch).masked, torch.isin(batch["input_ids"], ids)
    assert rare.sum() > 30 and masked[rare].double().mean() > 0.85  # 101 times as likely as the others
    with open(f"{trainer.args.output_dir}/recipe.yaml") as file:
        assert "masking: weighted" in file.read()


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (
            lambda weights: weights if len(weights) > 100 else None,
            "there are no weights for .* training proteins, such",
        ),
        (lambda weights: weights[1:], "training proteins do not have as many weights as residues"),
    ],
)
def test_a_run_without_all_weights_does_not_start(make_recipe, weights_file, change, message):
    with pytest.raises(CorpusError, match=message):
        pretrain(make_recipe(**WEIGHTED, mask_weights=weights_file(change)))
