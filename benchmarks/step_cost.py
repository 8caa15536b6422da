"""Compare the cost of an encoder update with a noiser to that with random masks."""

import torch

from adversarial_mlm.comparison.interleaved_timing import train_interleaved
from adversarial_mlm.models.presets import GAMES

from .measuring import Row, alternate, compare, timed
from .training import our_trainer, proteins_of_one_length

SIZE, _BATCH, _LENGTH = "tape-38m", 8, 200
FAST = {"name": GAMES["fast"]["noiser"], "backbone": GAMES["fast"]["noiser_backbone"]}


def run(repetitions: int = 9, corpus: str | None = None) -> list[Row]:
    """Compare the presets `paper` and `fast` with random masks.

    All proteins have one length, because the noiser's updates use other proteins than the encoder's. The paper's 10:10
    is measured as 1:1, which is the same work for every encoder update.
    """
    dataset, steps = proteins_of_one_length(corpus, _LENGTH), repetitions + 1
    random = our_trainer(dataset, SIZE, None, steps, batch_size=_BATCH)
    paper = our_trainer(dataset, SIZE, "paper", steps, batch_size=_BATCH, noiser_steps=1, encoder_steps=1)
    fast = our_trainer(dataset, SIZE, "fast", steps, batch_size=_BATCH, noiser=FAST)
    nu = _noiser_share(paper)
    floor = (5 + 4 * nu) / 3
    seconds = [series[1:] for series in train_interleaved([random, paper, fast])]
    of = f"{SIZE}, batch {_BATCH} of length {_LENGTH}"
    return [
        compare(
            f"update with the noiser ÷ with random masks, {of}: paper (10:10)",
            seconds[1],
            seconds[0],
            "s",
            f"<= {1.1 * floor:.3f}",
            note=f"ν = {nu:.3f} for the paper's noiser; the minimum is (5 + 4ν) / 3 = {floor:.3f}",
        ),
        compare(
            f"update with the noiser ÷ with random masks, {of}: fast",
            seconds[2],
            seconds[0],
            "s",
            "<= 1.10",
            note="reversal, credit, closed form, convolutions",
        ),
    ]


def _noiser_share(trainer) -> float:
    """Return ν, the time of the noiser's forward pass ÷ that of the encoder's, on one batch."""
    dataset = trainer.train_dataset
    batch = trainer.data_collator([dataset[index] for index in range(_BATCH)])
    inputs = {name: batch[name].to(trainer.args.device) for name in ("input_ids", "attention_mask")}

    @torch.no_grad()
    def forward(network):
        return network(**inputs)

    noiser, encoder = trainer.noiser.eval(), trainer.model.eval()
    both = alternate(timed(lambda: forward(noiser), lambda: forward(encoder)), 5)
    return compare("ν", both[0], both[1], "s", "").ratio
