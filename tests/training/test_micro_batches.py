"""What is read at once: parts of all rows of an update, of at most so many tokens."""

import datasets
import pytest
import torch
from torch.utils.data import DataLoader

from adversarial_mlm.training.evaluation import numbered_batches
from adversarial_mlm.training.micro_batches import PARTS, in_place_of, overhead_of_a_chunk
from tests.helpers.hooked_trainer import HookedTrainer
from tests.helpers.trainer_helpers import largest_difference, log_of, parameters_of


@pytest.fixture
def dataset(proteins):
    return datasets.Dataset.from_dict({"sequence": [p[: 10 + 13 * i % 50] for i, p in enumerate(proteins[:60])]})


class Sizes(HookedTrainer):
    """Notes the shapes that the encoder reads."""

    def __init__(self, *args, **kwargs):
        self.shapes = []
        super().__init__(*args, **kwargs)

    def read(self, model, corrupted, *args, **kwargs):
        self.shapes.append(tuple(corrupted.input_ids.shape))
        return super().read(model, corrupted, *args, **kwargs)


@pytest.mark.parametrize("masking", ["random", "adversarial"])
def test_the_run_is_that_of_micro_batches(make_trainer, masking):
    """The same proteins, masks and weights, from other parts: fewer of them, and none with too many tokens."""
    settings = {"double": True, "max_steps": 3, "gradient_accumulation_steps": 5, "noiser_cosine_steps": 0}
    settings["cls"] = Sizes
    each = make_trainer(masking, "each", max_length=64, **settings)
    whole = make_trainer(masking, "whole", max_length=64, tokens_per_micro_batch=256, **settings)
    for trainer in (each, whole):
        trainer.train()
    assert largest_difference(parameters_of(whole), parameters_of(each)) < 1e-10
    for a, b in zip(log_of(whole), log_of(each), strict=True):
        for name in ("loss", "grad_norm", "mask_rate", "noiser_reward"):
            assert a.get(name, 0) == pytest.approx(b.get(name, 0), rel=1e-6)
    assert sum(rows for rows, _ in whole.shapes) == sum(rows for rows, _ in each.shapes)
    assert max(rows * width for rows, width in whole.shapes) <= 256
    assert len(whole.shapes) < len(each.shapes)
    assert sum(rows * width for rows, width in whole.shapes) < sum(rows * width for rows, width in each.shapes)


def test_the_largest_part_is_the_last_of_an_update(make_trainer):
    trainer = make_trainer("random", tokens_per_micro_batch=200, gradient_accumulation_steps=5)
    batches = [trainer.data_collator(list(trainer.train_dataset)[4 * i : 4 * i + 4]) for i in range(5)]
    tokens = [part["attention_mask"].numel() for part in trainer.game.micro_batches.parts(batches)]
    assert len(tokens) > 2 and tokens == sorted(tokens)


@pytest.mark.parametrize("number", [1, 2, 3, 4, 7, 8])
def test_the_stock_loop_has_as_many_micro_batches_as_before(number):
    batches, parts = [{"input_ids": i} for i in range(3)], [{"part": i} for i in range(number)]
    found = in_place_of(batches, parts)
    assert [batch["input_ids"] for batch in found] == [0, 1, 2]
    assert [part for batch in found for part in batch[PARTS]] == parts and found[-1][PARTS]


@pytest.mark.parametrize("gated", [True, False])
def test_a_process_without_held_out_proteins_in_the_last_batches_reads_nothing(make_trainer, gated):
    trainer = make_trainer(masking_rules={"gated": gated}, noiser_reward="loss", per_device_eval_batch_size=4)
    loader = DataLoader([{"sequence": "MKTAYIAK"}] * 4, batch_size=4, collate_fn=trainer.data_collator)
    (rest,) = numbered_batches(loader, 4, world=2, rank=1)  # the other process has all four
    assert len(rest["row"]) == 0 and trainer.game.chunks(rest) == []


def test_what_cannot_be_is_refused(make_trainer):
    with pytest.raises(ValueError, match="tokens_per_micro_batch is 31, but a protein may have max_length: 32 tokens"):
        make_trainer("random", tokens_per_micro_batch=31)
    with pytest.raises(ValueError, match="tokens_per_micro_batch cannot be combined with gated: false"):
        make_trainer(tokens_per_micro_batch=64, masking_rules={"selection": "threshold", "gated": False})


def test_a_chunk_costs_more_tokens_of_a_smaller_encoder(make_trainer, make_encoder, monkeypatch):
    trainer = make_trainer("random")
    assert overhead_of_a_chunk(trainer.args, trainer.model) == 256  # on a CPU
    monkeypatch.setattr(type(trainer.args), "device", property(lambda args: torch.device("cuda")))
    small, large = (make_encoder(hidden_size=width, intermediate_size=4 * width) for width in (32, 64))
    assert overhead_of_a_chunk(trainer.args, small) > 3 * overhead_of_a_chunk(trainer.args, large) > 0
