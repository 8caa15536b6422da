"""Reading batches in chunks of similar length: less padding, and nothing else."""

import datasets
import pytest

from adversarial_mlm import AdversarialMLMTrainer
from tests.helpers.exhaustive import exhaustive
from tests.helpers.trainer_helpers import largest_difference, log_of, parameters_of

NEVER = 10**9


@pytest.fixture
def dataset(proteins):
    """Proteins of 20 to 59 residues; `make_trainer` takes them."""
    return datasets.Dataset.from_dict(
        {"sequence": [protein[: 20 + 7 * i % 40] for i, protein in enumerate(proteins[:40])]}
    )


class Widths(AdversarialMLMTrainer):
    """Notes how many rows and columns the encoder reads at once, and how many of them are padding."""

    def __init__(self, *args, **kwargs):
        self.shapes, self.padding = [], 0
        super().__init__(*args, **kwargs)

    def compute_loss(self, model, inputs, **kwargs):
        self.shapes.append(tuple(inputs["input_ids"].shape))
        self.padding += int((inputs["attention_mask"] == 0).sum())
        return super().compute_loss(model, inputs, **kwargs)


@pytest.mark.parametrize(
    "settings",
    [
        pytest.param({"gradient_accumulation_steps": 2}, id="paper accumulated"),
        pytest.param({"noiser_update": "reversal", "noiser_every": 2, "importance_exponent": 1.0}, id="reversal"),
        exhaustive({"masking": "random"}, id="random"),
        exhaustive({"noiser_config": {"view": "blind"}, "noiser_reward": "credit"}, id="credit"),
        exhaustive({"loss_scope": "all", "unmasked_weight": 0.3}, id="all residues"),
    ],
)
def test_a_batch_in_chunks_gives_the_update_of_the_whole(make_trainer, settings):
    settings = {"double": True, "max_steps": 6, "per_device_train_batch_size": 8, **settings}
    masking = settings.pop("masking", "adversarial")
    trainers = [
        make_trainer(masking, f"overhead{overhead}", cls=Widths, chunk_overhead=overhead, **settings)
        for overhead in (0, NEVER)
    ]
    for trainer in trainers:
        trainer.train()
    cut, whole = trainers
    assert len(cut.shapes) > len(whole.shapes)
    assert cut.padding == 0 < whole.padding
    assert sum(rows for rows, _ in cut.shapes) == sum(rows for rows, _ in whole.shapes)
    assert largest_difference(parameters_of(cut), parameters_of(whole)) < 1e-10
    for a, b in zip(log_of(cut), log_of(whole), strict=True):
        for key in ("loss", "grad_norm", "noiser_reward", "noiser_grad_norm", "mask_rate", "gap"):
            assert a.get(key, 0) == pytest.approx(b.get(key, 0), rel=1e-6, abs=1e-9)


def test_where_masks_depend_on_the_whole_batch_it_is_not_cut(make_trainer):
    rules = {"gated": False, "selection": "threshold"}
    trainer = make_trainer(cls=Widths, chunk_overhead=0, masking_rules=rules)
    trainer.train()
    assert [rows for rows, _ in trainer.shapes] == [4] * 4 and trainer.padding > 0


def test_evaluation_in_chunks_gives_the_same_figures(make_trainer):
    figures = [
        make_trainer(double=True, folder=str(overhead), chunk_overhead=overhead).evaluate() for overhead in (0, NEVER)
    ]
    for name in figures[0]:
        if not name.endswith(("runtime", "per_second")):
            assert figures[0][name] == pytest.approx(figures[1][name], rel=1e-9)
    assert figures[0]["eval_loss"] > 0


def test_every_update_has_the_proteins_that_it_had_without_chunks(make_trainer):
    """No update prefers a length, as batches grouped by length do."""
    seen = []

    class Rows(AdversarialMLMTrainer):
        def compute_loss(self, model, inputs, **kwargs):
            seen[-1].setdefault(self.state.global_step, []).extend(inputs["num_residues"].tolist())
            return super().compute_loss(model, inputs, **kwargs)

    for overhead in (0, NEVER):
        seen.append({})
        make_trainer(folder=str(overhead), cls=Rows, chunk_overhead=overhead, max_steps=6).train()
    assert {step: sorted(lengths) for step, lengths in seen[0].items()} == {
        step: sorted(lengths) for step, lengths in seen[1].items()
    }
