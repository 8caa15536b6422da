"""Compare residues per second with the stock trainer, and measure the wait for data."""

import time
from collections.abc import Iterator, Sequence

from datasets import Dataset

from adversarial_mlm.comparison.interleaved_timing import train_interleaved

from .measuring import Row, compare
from .training import (
    CountedRows,
    fresh_encoder,
    lengths_like_swiss_prot,
    our_trainer,
    proteins,
    random_proteins,
    stock_trainer,
)

SIZE, _BATCH = "small", 16
_MEGA_BATCH = 50  # batches, of transformers
_WAITING_STEPS = 16
_TARGETS = {"random order": ">= 1.6", "grouped by length": ">= 1.0"}
_PEERS = tuple(_TARGETS)


def run(repetitions: int = _MEGA_BATCH, corpus: str | None = None) -> Iterator[Row]:
    """Compare the trainers with and without dropout, and measure the wait for data.

    The stock trainer groups by length within mega-batches of 50 batches, but of at most a quarter of the data. So
    there are 3,200 proteins. A run is as long as a mega-batch, which the stock trainer reads from the longest protein
    to the shortest; a run that is shorter only has the longest ones.
    """
    dataset = _proteins(corpus)
    for dropout, others in ((True, _PEERS), (False, _PEERS[1:])):
        yield from _beside(dataset, repetitions + 1, dropout, others)
    steps = min(repetitions, _WAITING_STEPS) + 1
    waiting = _seconds_for_data(our_trainer(dataset, SIZE, None, steps, batch_size=_BATCH, dataloader_num_workers=1))
    yield compare("wait for data, 1 worker", *waiting, "s", "<= 0.02", note="share of the step")


def _proteins(corpus: str | None) -> Dataset:
    """Proteins of a file, or, if it has too few to group, random ones with lengths like those of Swiss-Prot."""
    number = 4 * _MEGA_BATCH * _BATCH
    whole = None if corpus is None else proteins(corpus)
    if whole is None or len(whole) < number:
        return random_proteins(lengths_like_swiss_prot(number))
    return whole.shuffle(seed=0).select(range(number))


def _beside(dataset: Dataset, steps: int, dropout: bool, peers: Sequence[str]) -> Iterator[Row]:
    """Our trainer and stock ones in turns."""
    rates = {} if dropout else {"hidden_dropout_prob": 0.0, "attention_probs_dropout_prob": 0.0}

    def options(peer: str | None = None) -> dict:
        grouped = {"train_sampling_strategy": "group_by_length"} if peer == "grouped by length" else {}
        return {"model": fresh_encoder(SIZE, **rates), "dataloader_num_workers": 1, **grouped}

    trainers = [our_trainer(dataset, SIZE, None, steps, batch_size=_BATCH, **options())]
    trainers += [stock_trainer(dataset, SIZE, steps, _BATCH, **options(peer)) for peer in peers]
    counted = [CountedRows(trainer) for trainer in trainers]
    ours, *theirs = (
        [residues / spent for residues, spent in zip(rows.residues(), seconds, strict=True)][1:]
        for rows, seconds in zip(counted, train_interleaved(trainers), strict=True)
    )
    of = f"residues/s, random masks, {SIZE}, batch {_BATCH}, {'dropout 0.1' if dropout else 'no dropout'}"
    for peer, rate in zip(peers, theirs, strict=True):
        target = _TARGETS[peer] if dropout else ""
        yield compare(f"{of}: ours ÷ stock, {peer}", ours, rate, "residues/s", target)


def _seconds_for_data(trainer) -> tuple[list[float], list[float]]:
    """Return the seconds that each step waited for its batch, and the seconds of the step.

    The first step is left out, because it starts the worker.
    """
    waits: list[float] = []
    plain = trainer.get_batch_samples

    def get_batch_samples(*args, **kwargs):
        start = time.perf_counter()
        result = plain(*args, **kwargs)
        waits.append(time.perf_counter() - start)
        return result

    trainer.get_batch_samples = get_batch_samples
    (seconds,) = train_interleaved([trainer])
    return waits[1:], seconds[1:]
