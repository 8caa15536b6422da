"""Whole trainers that take turns, a step each."""

import tempfile
import threading
import time
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path

import torch
from datasets import Dataset
from transformers import BertForMaskedLM, Trainer, TrainerCallback, set_seed

from adversarial_mlm import (
    AdversarialMLMTrainer,
    AdversarialMLMTrainingArguments,
    DataCollatorForAdversarialMLM,
    DataCollatorForRandomMLM,
    NoiserModel,
    build_protein_tokenizer,
    load_corpus,
    presets,
)

DEMO_PROTEINS = Path(__file__).parent.parent / "examples" / "data" / "demo.fasta"
MAX_LENGTH = 512


def proteins(path: str | None) -> Dataset:
    """The proteins of a file, or those of the demo."""
    return load_corpus(str(path or DEMO_PROTEINS)).dataset


def fresh_encoder(size: str, **overrides) -> BertForMaskedLM:
    """The same weights each time."""
    set_seed(0)
    return BertForMaskedLM(presets.encoder_config(size, **overrides))


def our_trainer(
    dataset: Dataset,
    size: str,
    game: str | None,
    steps: int,
    *,
    batch_size: int,
    noiser: Mapping | None = None,
    encoder: Mapping | None = None,
    **settings,
) -> AdversarialMLMTrainer:
    """A trainer of a fresh encoder with a game of [`presets`], or with as many random masks.

    Args:
        dataset (`Dataset`): The proteins.
        size (`str`): Of the encoder.
        game (`str`, *optional*): The game; without it, random masks.
        steps (`int`): Updates of the encoder.
        batch_size (`int`): Proteins of an update.
        noiser (`Mapping`, *optional*): What is different from the paper's noiser.
        encoder (`Mapping`, *optional*): What is different from the encoder's preset.
        **settings: Training arguments that are different from the game's.
    """
    tokenizer = build_protein_tokenizer(model_max_length=MAX_LENGTH)
    rules = presets.game(game or "paper")
    arguments = {name: rules[name] for name in rules if name in AdversarialMLMTrainingArguments.__dataclass_fields__}
    if game is None:
        rate = rules["random_rate"] + rules["adversarial_rate"]
        collator = DataCollatorForRandomMLM(tokenizer, max_length=MAX_LENGTH, random_rate=rate)
        arguments = {}
    else:
        masking = (
            "adversarial_rate",
            "random_rate",
            "learned_options",
            "sampler",
            "selection",
            "gated",
            "temperature",
        )
        config = presets.noiser_config(
            **{"name": "paper", "view": rules["noiser_view"], **(noiser or {})},
            vocabulary=DataCollatorForRandomMLM(tokenizer).vocabulary,
        )
        collator = DataCollatorForAdversarialMLM(
            tokenizer,
            NoiserModel(config),
            max_length=MAX_LENGTH,
            **{name: rules[name] for name in masking if name in rules},
        )
    return AdversarialMLMTrainer(
        model=fresh_encoder(size, **(encoder or {})),
        args=AdversarialMLMTrainingArguments(**{**arguments, **_common(steps, batch_size), **settings}),
        data_collator=collator,
        train_dataset=dataset,
        processing_class=tokenizer,
    )


def _common(steps: int, batch_size: int) -> dict:
    return {
        "output_dir": tempfile.mkdtemp(prefix="benchmark-"),
        "max_steps": steps,
        "per_device_train_batch_size": batch_size,
        "logging_steps": 10**9,
        "save_strategy": "no",
        "report_to": "none",
        "disable_tqdm": True,
        "use_cpu": not torch.cuda.is_available(),
    }


class _Turns(TrainerCallback):
    """Lets one step pass at a time, and notes how long it took."""

    def __init__(self, own: threading.Event, following: threading.Event):
        self.own, self.following, self.seconds = own, following, []

    def _wait(self) -> None:
        self.own.wait()
        self.own.clear()
        self.start = time.perf_counter()

    def on_train_begin(self, args, state, control, **kwargs):
        self._wait()

    def on_step_end(self, args, state, control, **kwargs):
        if torch.cuda.is_available():
            torch.cuda.synchronize()
        self.seconds.append(time.perf_counter() - self.start)
        self.following.set()
        if state.global_step < args.max_steps:
            self._wait()


def train_in_turns(trainers: Sequence[Trainer], after: Callable[[], object] | None = None) -> list[list[float]]:
    """Train each in a thread of its own, a step of one after a step of the other, all with the same `max_steps`.

    A step is everything from the end of the step before: data, the noiser's updates, the encoder's.

    Returns:
        `list[list[float]]`: Seconds of every step, for each trainer.

    Raises:
        RuntimeError: If a trainer failed.
    """
    events = [threading.Event() for _ in trainers]
    turns = [_Turns(own, following) for own, following in zip(events, events[1:] + events[:1], strict=True)]
    failures: list[BaseException] = []

    def train(trainer: Trainer, turn: _Turns) -> None:
        trainer.add_callback(turn)
        try:
            trainer.train()
        except BaseException as error:
            failures.append(error)
            for event in events:
                event.set()

    threads = [threading.Thread(target=train, args=pair, daemon=True) for pair in zip(trainers, turns, strict=True)]
    for thread in threads:
        thread.start()
    events[0].set()
    for thread in threads:
        thread.join()
    if failures:
        raise RuntimeError("a trainer failed while it was measured") from failures[0]
    return [turn.seconds for turn in turns]
