"""What an update costs is counted by formulas, and PyTorch's own counter agrees."""

import numpy as np
import pytest
from datasets import Dataset
from torch.utils.flop_counter import FlopCounterMode

from adversarial_mlm import (
    AdversarialMLMTrainer,
    DataCollatorForAdversarialMLM,
    DataCollatorForChosenProteinsMLM,
    DataCollatorForRandomMLM,
)
from adversarial_mlm.comparison.flops import ArmFlops, Tokens
from adversarial_mlm.recipes.recipe import recipe_of
from tests.helpers.exhaustive import exhaustive

_ROWS, _RESIDUES = 4, 30
CHOICE = {"noiser_update": "reversal", "noiser_reward": "learnability", "teacher": "ema"}


@pytest.fixture
def counted(make_encoder, make_noiser, tokenizer, proteins, tmp_path):
    """FLOPs of some updates: by the formula and by PyTorch's counter."""

    def count(updates: int, noiser: dict | None = None, **options) -> tuple[float, float]:
        steps = {"max_steps": updates, "noiser_cosine_steps": 0} if noiser is not None else {"max_steps": updates}
        common = {
            "train_data": ["x"], "output_dir": str(tmp_path), "per_device_train_batch_size": _ROWS, "use_cpu": True,
            "save_strategy": "no", "report_to": "none", "disable_tqdm": True, "max_length": 64,
        }  # fmt: skip
        recipe = recipe_of({**common, **steps, **options}, [], "test")
        # of the fused attention on a CPU the counter knows nothing
        encoder = make_encoder(attn_implementation="eager")
        network, collator = None, DataCollatorForRandomMLM(tokenizer, 64)
        if noiser is not None:
            network = make_noiser(**noiser)
            if network.config.backbone == "transformer":
                network.backbone.transformer.set_attn_implementation("eager")
            if recipe.masking.chooses_positions:
                collator = DataCollatorForAdversarialMLM(tokenizer, network, 64, sampler=recipe.masking.sampler)
            else:
                collator = DataCollatorForChosenProteinsMLM(tokenizer, network, 64)
        trainer = AdversarialMLMTrainer(
            model=encoder,
            args=recipe.training,
            data_collator=collator,
            train_dataset=Dataset.from_dict({"sequence": [protein[:_RESIDUES] for protein in proteins[:40]]}),
        )
        with FlopCounterMode(display=False) as counter:
            trainer.train()
        # of what is looked for at the start, a backward pass on one batch, nothing is left here
        tokens = Tokens.of(np.array([_RESIDUES]), np.array([40]), _ROWS, 64)
        return ArmFlops(recipe, encoder, network, tokens).of(updates), float(counter.get_total_flops())

    return count


@pytest.mark.parametrize(
    "noiser, options",
    [
        (None, {}),
        (None, {"loss_weights": "learnability", "teacher": "ema"}),
        (None, {"teacher": "ema", "soft_targets": ["0.5@0", "0@2"]}),
        ({"backbone": "gru"}, {"noiser_steps": 2, "encoder_steps": 2}),
        ({"backbone": "conv"}, {"noiser_update": "reversal", "noiser_reward": "credit", "noiser_every": 2}),
        ({"backbone": "conv", "view": "blind"}, {"masking": "chosen_proteins", "noiser_every": 2, **CHOICE}),
        ({"backbone": "transformer", "num_attention_heads": 2}, {"noiser_steps": 1, "encoder_steps": 1}),
        ({"backbone": "conv"}, {"noiser_update": "reversal", "adversarial_share": ["0@0", "0@1", "1@2"]}),
        exhaustive({"backbone": "gru"}, {"noiser_steps": 2, "encoder_steps": 2, "noiser_reward": "credit"}),
        exhaustive({"backbone": "gru", "view": "context"}, {"noiser_update": "reversal"}),
        exhaustive({"backbone": "conv"}, {"noiser_update": "reversal", "noiser_reward": "reducible"}),
        exhaustive({"backbone": "conv"}, {"noiser_update": "none"}),
    ],
)
def test_the_formula_counts_what_the_counter_counts(counted, noiser, options):
    formula, counter = counted(4, noiser, **options)
    assert formula == pytest.approx(counter, rel=0.01)


def test_longer_proteins_count_as_the_windows_that_are_read():
    tokens = Tokens.of(np.array([8, 500]), np.array([1, 3]), rows=4, max_length=12)
    assert tokens.count == 10 + 3 * 12 and tokens.squares == 100 + 3 * 144


def test_the_nearest_number_of_updates_spends_a_budget(make_encoder, make_noiser):
    options = {"train_data": ["x"], "noiser_steps": 1, "encoder_steps": 2, "use_cpu": True, "report_to": "none"}
    recipe, tokens = recipe_of(options, [], "test"), Tokens(100.0, 1000.0)
    flops = ArmFlops(recipe, make_encoder(), make_noiser(), tokens)
    for updates in (1, 2, 5, 30):
        assert flops.updates_for(flops.of(updates)) == updates
    assert flops.updates_for(flops.of(4) + 0.4 * flops.update(4, 10)) == 4
    assert flops.updates_for(flops.of(4) + 0.6 * flops.update(4, 10)) == 5
    assert flops.updates_for(1.0) == 1
    assert flops.of(2) == flops.update(0, 2) + flops.update(1, 2) and flops.update(0, 2) > flops.update(1, 2)


def test_the_teacher_counts_only_while_soft_targets_use_it(make_encoder):
    options = {"train_data": ["x"], "masking": "random", "use_cpu": True, "report_to": "none", "teacher": "ema"}
    taught = recipe_of({**options, "soft_targets": ["0.7@0", "0@50%"]}, [], "test")
    flops = ArmFlops(taught, make_encoder(), None, Tokens(100.0, 1000.0))
    assert flops.teaching > 0
    for updates in (10, 40):
        whole = updates * (flops.encoder_update + flops.teaching)
        assert flops.of(updates) == pytest.approx(whole - updates / 2 * flops.teaching)
        assert flops.updates_for(flops.of(updates)) == updates
