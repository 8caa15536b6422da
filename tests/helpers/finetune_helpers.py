"""What the tests of fine-tuning share."""

import numpy as np

from adversarial_mlm.downstream.finetune import FinetuneSettings

QUICK = FinetuneSettings(
    head_size=32, head_dropout=0.0, learning_rate=1e-2, warmup_steps=5, max_epochs=2, encoder_dropout=False
)


def settings(**options):
    return QUICK.replace(options)


def same_predictions(first, second):
    if isinstance(first, list):
        return len(first) == len(second) and all(map(np.array_equal, first, second))
    return np.array_equal(first, second)
