"""Compare residues per second with the stock trainer, and measure the wait for data."""

import time

from adversarial_mlm.comparison.interleaved_timing import train_interleaved

from .measuring import Row, compare
from .training import CountedRows, our_trainer, proteins, stock_trainer

SIZE, _BATCH = "small", 32


def run(repetitions: int = 16, corpus: str | None = None) -> list[Row]:
    """Compare the trainers on all proteins of one epoch, and measure the wait for data.

    The data set has as many proteins as the measured steps read. Grouping by length puts the longest proteins first in
    an epoch; this way every trainer is measured on all proteins.
    """
    whole, steps = proteins(corpus), repetitions + 1
    dataset = whole.shuffle(seed=0).select(range(min(repetitions * _BATCH, len(whole))))
    trainers = {
        "ours": our_trainer(dataset, SIZE, None, steps, batch_size=_BATCH, dataloader_num_workers=1),
        "random order": stock_trainer(dataset, SIZE, steps, _BATCH, dataloader_num_workers=1),
        "grouped": stock_trainer(
            dataset, SIZE, steps, _BATCH, dataloader_num_workers=1, train_sampling_strategy="group_by_length"
        ),
    }
    counted = {name: CountedRows(trainer) for name, trainer in trainers.items()}
    seconds = dict(zip(trainers, train_interleaved(list(trainers.values())), strict=True))
    rates = {
        name: [residues / spent for residues, spent in zip(counted[name].residues(), seconds[name], strict=True)][1:]
        for name in trainers
    }
    of = f"residues/s, random masks, {SIZE}, batch {_BATCH}"
    rows = [
        compare(f"{of}: ours ÷ stock, random order", rates["ours"], rates["random order"], "residues/s", ">= 1.6"),
        compare(f"{of}: ours ÷ stock, grouped by length", rates["ours"], rates["grouped"], "residues/s", ">= 1.0"),
    ]
    waiting = _seconds_for_data(our_trainer(dataset, SIZE, None, steps, batch_size=_BATCH, dataloader_num_workers=1))
    rows.append(compare("wait for data, 1 worker", *waiting, "s", "<= 0.02", note="share of the step"))
    return rows


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
