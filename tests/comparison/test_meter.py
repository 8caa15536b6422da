"""The efficiency of an update, on cases with known answers."""

import datasets
import pytest
import torch
from accelerate import Accelerator

from adversarial_mlm import AdversarialMLMTrainingArguments, DataCollatorForRandomMLM
from adversarial_mlm.comparison import compare as compare_module
from adversarial_mlm.comparison.meter import (
    Efficiency,
    _lines,
    compared,
    efficiency,
    jackknife,
    measure_masking,
)
from adversarial_mlm.masking.keyed_random import EVALUATION, row_keys
from adversarial_mlm.training.noiser_game import NoiserGame


def test_the_jackknife_error_of_a_mean_is_its_standard_error():
    values = torch.tensor([1.0, 2.0, 4.0, 9.0], dtype=torch.float64)
    value, error = jackknife(lambda kept: float(values[kept].mean()), 4)
    assert value == 4.0 and error == pytest.approx(float(values.std() / 2))


def test_noise_across_the_gradient_lowers_the_efficiency_as_the_formula_says():
    """g = G + s z: e = |G|^4 / (|G|^2 + s^2 n), and a batch twice as large halves the second term."""
    torch.manual_seed(0)
    target, number = torch.randn(50, dtype=torch.float64), 500
    length = float(target @ target)

    def products(noise: float) -> torch.Tensor:
        gradients = target + noise * torch.randn(number, 50, dtype=torch.float64)
        return torch.stack([gradients @ target, (gradients**2).sum(dim=1)], dim=1)

    small, large = products(2.0), products(2.0 / 2**0.5)
    for found, noise in ((small, 4.0), (large, 2.0)):
        one = compared(found, found, is_first=True)
        expected = length**2 / (length + noise * 50)
        assert abs(one.value - expected) < 4 * one.error < 0.15 * expected
    ratio = compared(large, small)
    assert abs(ratio.relative - (length + 200) / (length + 100)) < 4 * ratio.relative_error
    # without noise it is that of the gradient itself
    assert efficiency(torch.tensor([[length, length]] * 3)) == pytest.approx(length)
    assert compared(small, small).relative == 1 and compared(small, small).relative_error == pytest.approx(0)


@pytest.fixture
def make_game(tmp_path, make_encoder, tokenizer):
    encoder = make_encoder().double()

    def make(options: dict | None = None, cls=DataCollatorForRandomMLM, **rules) -> NoiserGame:
        args = AdversarialMLMTrainingArguments(
            str(tmp_path), use_cpu=True, report_to=[], max_steps=10, **(options or {})
        )
        collator = cls(tokenizer, **{"max_length": 60, "random_rate": 0.15, **rules})
        game = NoiserGame(encoder, None, collator, args, Accelerator(cpu=True))
        game.prepare(lambda: None)
        return game

    return make


@pytest.fixture
def train(proteins):
    return datasets.Dataset.from_dict({"sequence": proteins[:32]})


class AsEvaluated(DataCollatorForRandomMLM):
    """Masks the whole training set as evaluation does, whatever the batch."""

    def corrupt(self, batch, keys=None, *, rules=None):
        return self.hide_at_random(batch, row_keys(2021, EVALUATION, 0, batch["row"]), 0.15)


def test_batches_that_are_the_held_out_set_have_the_efficiency_of_its_gradient(make_game, train):
    exact = make_game(cls=AsEvaluated, max_length=400)
    same = train.select([0] * 32)  # in any order, row i has the same protein and mask
    found = measure_masking({"a": exact, "b": exact}, same, [same], batch_sizes={"a": 32, "b": 32}, batches=3)
    assert found["a"].error < 1e-9 * found["a"].value and found["a"].value > 0
    assert found["b"].relative == pytest.approx(1) and found["b"].relative_error < 1e-9


def test_larger_batches_and_hidden_residues_are_worth_more(make_game, train):
    ways = {"small": make_game(), "large": make_game(), "hidden": make_game(mask_options=(1.0, 0.0, 0.0))}
    kept = make_game(mask_options=(0.0, 1.0, 0.0))  # nothing is hidden: another task
    sizes = {"small": 4, "large": 32, "hidden": 4, "kept": 4}
    found = measure_masking({**ways, "kept": kept}, train, [train], batch_sizes=sizes, batches=6)
    assert found["small"].relative == 1 and found["small"].relative_error == 0
    assert found["large"].relative > 1.2
    again = measure_masking({"large": ways["large"]}, train, [train], batch_sizes=sizes, batches=6)
    assert again["large"].relative == 1
    with pytest.raises(ValueError, match="at least 2 batches for its error, got 1"):
        measure_masking(ways, train, [train], batch_sizes=sizes, batches=1)


def test_a_teacher_that_is_the_encoder_itself_changes_nothing(make_game, train):
    games = {"plain": make_game(), "taught": make_game({"loss_weights": "learnability", "teacher": "ema"})}
    found = measure_masking(games, train, [train], batch_sizes=dict.fromkeys(games, 8), batches=3)
    assert found["taught"].relative == pytest.approx(1) and found["taught"].value == pytest.approx(
        found["plain"].value
    )


def test_the_arms_of_a_comparison_are_measured_and_those_with_a_noiser_named(write, finished, tmp_path):
    checkpoint = next(finished.glob("runs/random/seed-0/*"))
    arms = {"arms.span.options": {"masking": "span", "mask_options": [0.9, 0.05, 0.05]}, "arms.span.against": "random"}
    args, words = compare_module.parse_arguments([write(arms), "--meter", str(checkpoint)])
    lines = compare_module.meter(args, words).splitlines()
    assert "relative to random" in lines[0] and lines[-1].endswith("depend on its training: game")
    assert [line.split()[0] for line in lines[3:5]] == ["random", "span"] and lines[3].split()[2] == "1.00"
    assert not (tmp_path / "study").exists()


def test_efficiencies_that_are_not_known_are_said_to_be():
    sure, unsure = Efficiency(2.0, 0.5, 1.0, 0.0), Efficiency(2.0, 1.5, 1.0, 0.0)
    other = Efficiency(3.0, 0.5, 1.5, 0.25)
    lines = _lines({"a": sure, "b": other}, {"a": 8, "b": 16})
    assert (
        len(lines) == 2
        and "relative to a" in lines[0]
        and lines[1].splitlines()[3].split() == ["b", "16", "1.50", "0.25"]
    )
    assert "efficiency of a itself has an error of 75 %" in _lines({"a": unsure, "b": other}, {"a": 8, "b": 16})[2]
