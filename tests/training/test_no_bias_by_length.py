"""Less padding must not cost the updates their randomness: each has the lengths and residues of a uniform shuffle."""

import datasets
import numpy as np
import pytest
import torch

from adversarial_mlm.masking.data_collator import RECORDS
from tests.helpers.hooked_trainer import HookedTrainer

BATCH, EPOCHS, NEVER = 8, 3, 10**9
LETTERS = "AGLKW"  # from the shortest to the longest proteins

_LENGTHS = np.random.default_rng(5).gamma(2.0, 12.0, size=256).astype(int).clip(4, 60)


def letter_of(length: int) -> int:
    return int(np.searchsorted([10, 18, 26, 36], length, side="right"))


@pytest.fixture
def dataset():
    """256 proteins, short ones of other residues than long ones."""
    return datasets.Dataset.from_dict({"sequence": [LETTERS[letter_of(n)] * n for n in _LENGTHS]})


class Noted(HookedTrainer):
    """Notes the records of every update of both networks, and what the encoder's chunks hold; computes nothing."""

    def __init__(self, *args, **kwargs):
        self.encoder_records, self.noiser_records, self.read, self.widths = [], [], {}, []
        super().__init__(*args, **kwargs)

    def get_batch_samples(self, *args):
        remember = self.guard.record

        def noted(network, update, batches):
            records = (self.encoder_records, self.noiser_records)[network]
            records.append([record for batch in batches for record, _ in batch[RECORDS]])
            return remember(network, update, batches)

        self.guard.record = noted
        result = super().get_batch_samples(*args)
        self.guard.record = remember
        return result

    def compute_loss(self, model, inputs, **kwargs):
        self.read.setdefault(self.state.global_step, []).append(inputs["input_ids"][inputs["residue_mask"]])
        self.widths.append(inputs["input_ids"].shape[1])
        return sum(parameter.sum() for parameter in model.parameters()) * 0

    def update_noiser(self, update, batches, *others):
        pass


def trained(make_trainer, chunk_overhead: int, folder: str) -> Noted:
    trainer = make_trainer(
        folder=folder, cls=Noted, chunk_overhead=chunk_overhead, per_device_train_batch_size=BATCH,
        max_steps=EPOCHS * len(_LENGTHS) // BATCH, noiser_steps=1, encoder_steps=1, noiser_cosine_steps=0,
        logging_steps=NEVER, max_grad_norm=0.0,
    )  # fmt: skip
    trainer.train()
    return trainer


@pytest.fixture(scope="module")
def kept() -> dict[str, Noted]:
    return {}


@pytest.fixture
def in_chunks(make_trainer, kept) -> Noted:
    """Trained once; tests only read what it noted."""
    if not kept:
        kept["in chunks"] = trained(make_trainer, 0, "chunks")
    return kept["in chunks"]


def test_chunks_leave_every_update_its_records_in_their_order(make_trainer, in_chunks):
    whole = trained(make_trainer, NEVER, "whole")
    assert in_chunks.encoder_records == whole.encoder_records
    assert in_chunks.noiser_records == whole.noiser_records
    assert len(in_chunks.widths) > 2 * len(whole.widths)
    for step, chunks in in_chunks.read.items():
        assert torch.equal(torch.cat(chunks).sort().values, torch.cat(whole.read[step]).sort().values)


@pytest.mark.parametrize("network", ["encoder", "noiser"])
def test_every_epoch_has_every_record_once_in_an_order_of_its_own(in_chunks, network):
    records = np.array(getattr(in_chunks, f"{network}_records"))
    epochs = records.reshape(EPOCHS, -1)
    assert all(sorted(epoch) == list(range(len(_LENGTHS))) for epoch in epochs)
    for a, b in ((0, 1), (1, 2), (0, 2)):
        assert (epochs[a] == epochs[b]).mean() < 0.05
        assert abs(np.corrcoef(_LENGTHS[epochs[a]], _LENGTHS[epochs[b]])[0, 1]) < 4 / np.sqrt(len(_LENGTHS))


def per_update(order: np.ndarray) -> np.ndarray:
    """Mean length, and the share of each letter among the residues, of every update `(updates, 1 + letters)`."""
    lengths = _LENGTHS[order.reshape(-1, BATCH)]
    letters = np.vectorize(letter_of)(lengths)
    counts = np.stack([(lengths * (letters == letter)).sum(axis=1) for letter in range(len(LETTERS))], axis=1)
    return np.concatenate([lengths.mean(axis=1)[:, None], counts / counts.sum(axis=1, keepdims=True)], axis=1)


def summary(order: np.ndarray) -> np.ndarray:
    """What a preference for a length would move: means, how far apart the updates are, a drift over the epoch."""
    figures = per_update(order)
    half = len(figures) // 2
    return np.concatenate([figures.mean(axis=0), figures.std(axis=0), figures[:half].mean(0) - figures[half:].mean(0)])


@pytest.fixture(scope="module")
def shuffles() -> np.ndarray:
    """The same figures of 2,000 uniform shuffles."""
    generator = np.random.default_rng(0)
    return np.array([summary(generator.permutation(len(_LENGTHS))) for _ in range(2000)])


@pytest.mark.parametrize("network", ["encoder", "noiser"])
def test_lengths_and_residues_of_the_updates_are_those_of_uniform_shuffles(in_chunks, shuffles, network):
    epochs = np.array(getattr(in_chunks, f"{network}_records")).reshape(EPOCHS, -1)
    mean, error = shuffles.mean(axis=0), shuffles.std(axis=0)
    for epoch in epochs:
        assert per_update(epoch)[:, 0].mean() == _LENGTHS.mean()  # whole updates
        assert (np.abs(summary(epoch) - mean)[1:] < 4 * error[1:]).all()
    # the mean over all updates, whose standard error is smaller
    over_all = np.mean([summary(epoch) for epoch in epochs], axis=0)
    assert (np.abs(over_all - mean)[1:] < 4 * error[1:] / np.sqrt(EPOCHS)).all()


def test_the_standard_error_of_an_updates_length_is_that_of_drawing_without_replacement(in_chunks):
    means = per_update(np.array(in_chunks.encoder_records).reshape(-1))[:, 0]
    rest = (len(_LENGTHS) - BATCH) / (len(_LENGTHS) - 1)
    error = _LENGTHS.std() * np.sqrt(rest / BATCH)
    # a sum of squares over the updates of each epoch, nearly independent
    assert np.mean(((means - _LENGTHS.mean()) / error) ** 2) == pytest.approx(1, abs=4 * np.sqrt(2 / len(means)))


def test_the_figures_would_tell_batches_grouped_by_length(shuffles):
    grouped = np.argsort(_LENGTHS, kind="stable").reshape(-1, BATCH)
    grouped = np.random.default_rng(1).permutation(grouped).reshape(-1)  # the batches themselves in random order
    assert (np.abs(summary(grouped) - shuffles.mean(axis=0))[1:] > 8 * shuffles.std(axis=0)[1:]).any()
