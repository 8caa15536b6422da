"""Who runs the loop of `rss` over the budget: the noiser's own update by its gradient, and nobody else."""

import dataclasses
from collections import Counter

import pytest
from transformers import Trainer, TrainingArguments

from adversarial_mlm import DataCollatorForAdversarialMLM, presets
from adversarial_mlm.masking import sampling
from tests.helpers.hooked_trainer import HookedTrainer

GAME = presets.game("paper")
PAPER = {
    name: GAME[name] for name in ("adversarial_rate", "random_rate", "sampler", "selection", "gated", "temperature")
}


@pytest.fixture
def loops(monkeypatch):
    """How often the loop ran, by what the trainer was doing."""
    counts = Counter()
    rss = sampling.SAMPLERS["rss"]

    def counted(*args, **kwargs):
        counts[counts.doing] += 1
        return rss.relaxation(*args, **kwargs)

    counts.doing = "otherwise"
    monkeypatch.setitem(sampling.SAMPLERS, "rss", dataclasses.replace(rss, relaxation=counted))
    return counts


@pytest.fixture
def watched(loops):
    def during(name, job, *args, **kwargs):
        before, loops.doing = loops.doing, name
        result = job(*args, **kwargs)
        loops.doing = before
        return result

    class Doing(HookedTrainer):
        def update_noiser(self, *args):
            return during("noiser", super().update_noiser, *args)

        def training_step(self, *args):
            return during("encoder", super().training_step, *args)

        def evaluation_loop(self, *args, **kwargs):
            return during("evaluation", super().evaluation_loop, *args, **kwargs)

        def compare_half_batches(self, *args):
            return during("half batches", super().compare_half_batches, *args)

    return Doing


def test_with_the_papers_game_only_the_noisers_updates_do(make_trainer, watched, loops):
    trainer = make_trainer(cls=watched, masking_rules=PAPER, chunk_overhead=10**9, eval_strategy="steps", eval_steps=2)
    trainer.train()
    assert any("eval_adversarial_loss" in entry for entry in trainer.state.log_history)
    # two cycles of two updates; the look at two halves of a batch is once in a hundred steps
    assert loops == {"noiser": 4, "half batches": 2}


@pytest.mark.parametrize("reward", ["credit", "surprise", "reducible", "predictor"])
def test_with_pay_for_single_residues_nobody_does(make_trainer, watched, loops, reward):
    make_trainer(cls=watched, masking_rules=PAPER, noiser_reward=reward, eval_strategy="steps", eval_steps=2).train()
    assert not loops


def test_by_reversal_it_is_part_of_the_one_pass_where_the_noiser_moves(make_trainer, watched, loops):
    settings = {"noiser_update": "reversal", "noiser_every": 2, "noiser_cosine_steps": 0, "chunk_overhead": 10**9}
    make_trainer(cls=watched, masking_rules=PAPER, eval_strategy="steps", eval_steps=2, **settings).train()
    assert loops == {"encoder": 2}  # of four updates


def test_the_closed_form_has_no_loop(make_trainer, watched, loops):
    make_trainer(cls=watched, masking_rules={**PAPER, "sampler": "gumbel_topk"}, eval_strategy="steps").train()
    assert not loops


def test_the_threshold_is_on_the_relaxed_values_so_that_every_mask_needs_them(make_trainer, watched, loops):
    rules = {**PAPER, "selection": "threshold"}
    settings = {"eval_strategy": "steps", "eval_steps": 4, "noiser_cosine_steps": 0, "chunk_overhead": 10**9}
    make_trainer(cls=watched, masking_rules=rules, **settings).train()
    assert loops["noiser"] == loops["encoder"] == 4 and loops["evaluation"] > 0


def test_a_frozen_noiser_needs_none(tokenizer, make_noiser, make_encoder, dataset, tmp_path, loops):
    collator = DataCollatorForAdversarialMLM(tokenizer, noiser=make_noiser(), max_length=64, frozen=True, **PAPER)
    encoder = make_encoder()
    settings = {"max_steps": 2, "use_cpu": True, "report_to": [], "save_strategy": "no", "disable_tqdm": True}
    args = TrainingArguments(output_dir=str(tmp_path), remove_unused_columns=False, eval_strategy="steps", **settings)
    trainer = Trainer(
        model=encoder, args=args, data_collator=collator, train_dataset=dataset, eval_dataset=dataset.select(range(8))
    )
    trainer.train()
    trainer.evaluate()
    masked = collator([dataset[0]])["labels"] != -100
    assert masked.any() and not loops
