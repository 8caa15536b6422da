"""Collators: from sequences to batches, and from batches to corrupted batches.

A collator runs ahead of time in worker processes, which have neither the newest noiser nor its gradient. So both
collators here have two stages. Calling one (`collator(examples)`) does the work on the CPU: encode, crop, pad, mark
the residues. Then the trainer calls `collator.corrupt(batch, keys)`, which masks on the device. With `frozen=True`,
for a noiser that is no longer trained, calling the collator does both.
"""

import copy
import logging
import os
from collections.abc import Callable, Mapping, Sequence
from typing import Any

import numpy as np
import torch
from transformers import PreTrainedTokenizerBase

from adversarial_mlm.data.order import crop_start
from adversarial_mlm.data.residue_weights import ResidueWeights
from adversarial_mlm.masking.corruption import CorruptedBatch, corrupt_batch
from adversarial_mlm.masking.mask_inputs import MaskInputs
from adversarial_mlm.masking.positions import POSITIONS
from adversarial_mlm.masking.rules import MaskingRules
from adversarial_mlm.masking.sampling import ORDERED_TEMPERATURE
from adversarial_mlm.models.modeling_noiser import NoiserModel
from adversarial_mlm.models.tokenization_protein import ByteTable, ResidueVocabulary
from adversarial_mlm.utils.arguments import check_class, check_number, class_of
from adversarial_mlm.utils.errors import CorpusError, one_line, shorten

logger = logging.getLogger(__name__)

RECORDS = "records"
"""Key of a batch for the number and id of each row's record: a list, which stays on the host."""


class SequenceEncoder:
    """The stage on the CPU: examples with a `sequence` to a padded batch. It is small, because workers copy it.

    Args:
        tokenizer (`PreTrainedTokenizerBase`): A tokenizer that reads one residue as one token. A [`ByteTable`] takes
            over its work.
        max_length (`int`, *optional*, defaults to 512): Largest number of tokens in a row, including special tokens.
            A longer sequence is cropped to a random window, a new one in each epoch.
        pad_to_multiple_of (`int`, *optional*): Round the padded length up to a multiple of this.
        seed (`int`, *optional*, defaults to 0): Seed of the crops.
        mask_inputs ([`MaskInputs`], *optional*): Adds what the choice of positions needs beside the residues.

    Raises:
        ValueError: If `max_length` leaves no room for a residue, if the tokenizer does not read one residue as one
            token, or if it lacks a token that is needed.
    """

    def __init__(
        self,
        tokenizer: PreTrainedTokenizerBase,
        max_length: int = 512,
        pad_to_multiple_of: int | None = None,
        seed: int = 0,
        mask_inputs: MaskInputs | None = None,
    ):
        check_number("max_length", max_length, whole=True)
        self.mask_inputs = mask_inputs
        self.vocabulary = ResidueVocabulary.from_tokenizer(tokenizer)
        self.table = ByteTable.from_tokenizer(tokenizer)
        self.max_residues = max_length - len(self.table.prefix) - len(self.table.suffix)
        if self.max_residues < 1:
            raise ValueError(
                f"max_length is {max_length}, which leaves no room for a residue next to the special tokens: use at "
                f"least {max_length - self.max_residues + 1}"
            )
        self.max_length, self.pad_to_multiple_of, self.seed = max_length, pad_to_multiple_of, seed
        self._is_residue = np.zeros(self.vocabulary.vocab_size, dtype=bool)
        self._is_residue[list(self.vocabulary.residue_ids)] = True
        self.names_records = False  # set by a trainer whose loader needs the records of a batch
        self._stateful_crops: dict[int, np.random.Generator] = {}

    def __call__(self, examples: Sequence[Mapping]) -> dict[str, torch.Tensor]:
        """Encode, crop and pad.

        Args:
            examples (`Sequence[Mapping]`): Each has a `sequence` (`str`). With `epoch` and `record` (`int`) the crop
                is a function of both; without them it is drawn anew each time. An example with a true `filler` only
                fills the batch: none of its residues is masked, so it is not part of any loss.

        Returns:
            `dict[str, torch.Tensor]`: `input_ids` (int64), `attention_mask` (int64) and `residue_mask` (bool), each
            `(batch, length)`, and `num_residues` `(batch,)` int64.
        """
        if not examples:
            raise CorpusError("there are no examples: a batch needs at least one")
        for example in examples:
            _check_example(example)
        whole = [self._encode(example) for example in examples]
        starts = [self._start(len(ids), example) for ids, example in zip(whole, examples, strict=True)]
        rows = [ids[start : start + self.max_residues] for ids, start in zip(whole, starts, strict=True)]
        prefix, suffix = self.table.prefix, self.table.suffix
        extra = len(prefix) + len(suffix)
        longest = max(len(row) for row in rows) + extra
        if self.pad_to_multiple_of:
            longest = min(-(-longest // self.pad_to_multiple_of) * self.pad_to_multiple_of, self.max_length)
        input_ids = np.full((len(rows), longest), self.vocabulary.pad_token_id, dtype=np.int64)
        lengths = np.array([len(row) + extra for row in rows])
        for ids, row in zip(input_ids, rows, strict=True):
            end = len(prefix) + len(row)
            ids[: len(prefix)] = prefix
            ids[len(prefix) : end] = row
            ids[end : end + len(suffix)] = suffix
        attention_mask = np.arange(longest) < lengths[:, None]
        filler = np.array([example.get("filler", False) for example in examples])
        residue_mask = self._is_residue[input_ids] & attention_mask & ~filler[:, None]
        batch: dict[str, Any] = {
            "input_ids": torch.from_numpy(input_ids),
            "attention_mask": torch.from_numpy(attention_mask.astype(np.int64)),
            "residue_mask": torch.from_numpy(residue_mask),
            "num_residues": torch.from_numpy(residue_mask.sum(axis=1)),
        }
        if self.mask_inputs is not None:
            windows = [(start, len(row), len(ids)) for start, row, ids in zip(starts, rows, whole, strict=True)]
            batch |= self.mask_inputs.of(
                examples, windows, len(prefix), longest, self.seed, required=self.names_records
            )
        if self.names_records:
            batch[RECORDS] = [(example.get("record"), example.get("id")) for example in examples]
        return batch

    def _encode(self, example: Mapping) -> np.ndarray:
        record = example.get("id", example.get("record"))
        name = "an example" if record is None else f"record {record}"
        try:
            ids = self.table.encode(example["sequence"])
        except CorpusError as error:
            raise CorpusError(f"{name}: {one_line(error)}.") from error
        if not len(ids):
            raise CorpusError(f"{name}: a sequence must have a residue, but is {shorten(example['sequence'])}.")
        return ids

    def for_evaluation(self, seed: int) -> "SequenceEncoder":
        """Return a copy for held-out proteins, with its own seed of the crops, and without `mask_inputs`."""
        found = copy.copy(self)
        found.seed, found.names_records, found.mask_inputs = seed, False, None
        return found

    def _start(self, residues: int, example: Mapping) -> int:
        """Where the window of a protein begins."""
        if residues <= self.max_residues:
            return 0
        if "record" in example and "epoch" in example:
            return crop_start(residues, self.max_residues, self.seed, example["epoch"], example["record"])
        return int(self._worker_generator().integers(residues - self.max_residues + 1))

    def _worker_generator(self) -> np.random.Generator:
        # one for each process, with PyTorch's seed of the worker, because forked workers must not have equal crops
        generator = self._stateful_crops.get(os.getpid())
        if generator is None:
            generator = np.random.default_rng([self.seed, torch.initial_seed()])
            self._stateful_crops[os.getpid()] = generator
        return generator


def _check_example(example: Any) -> None:
    """Check that an example has a sequence. The stock `Trainer` removes the column by default."""
    if not isinstance(example, Mapping):
        raise CorpusError(f"an example must be a mapping with a 'sequence', got {class_of(example)}")
    if "sequence" not in example:
        columns = [str(name) for name in example if name not in ("epoch", "record", "filler")]
        raise CorpusError(
            f"an example has no 'sequence', only {', '.join(columns) or 'nothing'}: use a dataset with this column, "
            "and with the Trainer of transformers also remove_unused_columns=False"
        )


def _drawn_keys(batch: Mapping[str, torch.Tensor]) -> torch.Tensor:
    size, device = len(batch["input_ids"]), batch["input_ids"].device
    return torch.randint(-(2**63), 2**63 - 1, (size,), device=device)


class DataCollatorForRandomMLM:
    """Masks without a noiser, with an exact number in every protein: the baseline, also used for evaluation.

    Args:
        tokenizer (`PreTrainedTokenizerBase`): The encoder's tokenizer.
        max_length (`int`, *optional*, defaults to 512): Largest number of tokens in a row, including special tokens;
            longer sequences are cropped at random.
        random_rate (`float`, *optional*, defaults to 0.2): Mask rate.
        mask_options (`Sequence[float]`, *optional*, defaults to `(0.8, 0.1, 0.1)`): Corruption mix: shares of [MASK],
            keep and replace by a standard residue.
        pad_to_multiple_of (`int`, *optional*): Round the padded length up to a multiple of this.
        seed (`int`, *optional*, defaults to 0): Seed of the crops. The noise of the masks comes from the keys.
        mask_rate (`str` or `Sequence[str]`, *optional*): Mask rates in place of `random_rate`, such as `"10%-90%"` or
            `["75%@0", "15%@100%"]`, see [`mask_rate.MaskRate`]. A rate that changes needs the trainer, which knows the
            update.
        mask_rate_curve (`str`, *optional*, defaults to `"linear"`): How its points are joined: `"linear"`,
            `"cosine"` or `"step"`.
        masking (`str`, *optional*, defaults to `"random"`): How positions are chosen: `"random"`, `"span"`,
            `"stratified"` or `"weighted"`, see [`positions`].
        span_length (`float`, *optional*): With `masking="span"`: mean length of the spans; 3 by default.
        mask_weights ([`ResidueWeights`] or `Mapping[str, Sequence[float]]`, *optional*): With `masking="weighted"`:
            weights of the residues by id, for examples without a list `mask_weights`.

    Raises:
        ValueError: If a rate or share is out of range, or if two options contradict each other.
    """

    noiser: NoiserModel | None = None
    chooses_positions = False
    """Whether a noiser chooses which residues are masked."""

    def __init__(
        self,
        tokenizer: PreTrainedTokenizerBase,
        max_length: int = 512,
        random_rate: float = 0.2,
        mask_options: Sequence[float] = (0.8, 0.1, 0.1),
        pad_to_multiple_of: int | None = None,
        seed: int = 0,
        mask_rate: str | Sequence[str] = (),
        mask_rate_curve: str = "linear",
        masking: str = "random",
        span_length: float | None = None,
        mask_weights: ResidueWeights | Mapping[str, Sequence[float]] | None = None,
    ):
        if masking not in POSITIONS:
            raise ValueError(f"masking must be one of {', '.join(POSITIONS)}, got '{masking}'")
        schedule: dict[str, Any] = {"rate_schedule": mask_rate, "rate_curve": mask_rate_curve}
        rules = MaskingRules(random_rate, mask_options, positions=masking, span_length=span_length, **schedule)
        if mask_weights is not None and masking != "weighted":
            raise ValueError(f"mask_weights only applies to masking: weighted, but masking is {masking}: remove it")
        if mask_weights is not None and not isinstance(mask_weights, ResidueWeights):
            mask_weights = ResidueWeights(mask_weights)
        inputs = MaskInputs(masking, mask_weights) if masking in ("stratified", "weighted") else None
        self._set_up(tokenizer, rules, max_length, pad_to_multiple_of, seed, inputs)

    def _set_up(
        self,
        tokenizer,
        rules: MaskingRules,
        max_length: int,
        pad_to_multiple_of: int | None,
        seed: int,
        inputs: MaskInputs | None = None,
    ):
        self.tokenizer, self.rules = tokenizer, rules
        self.sequence_encoder = SequenceEncoder(tokenizer, max_length, pad_to_multiple_of, seed, inputs)

    @property
    def vocabulary(self) -> ResidueVocabulary:
        """The residues, and those that may replace one."""
        return self.sequence_encoder.vocabulary

    def mask_budget(
        self, num_residues: torch.Tensor, keys: torch.Tensor | None = None, rules: MaskingRules | None = None
    ) -> torch.Tensor:
        """Return the number of masked residues of each row, by `rules` or the collator's.

        Args:
            num_residues (`torch.Tensor` of shape `(batch,)`, int64): Residues of each row.
            keys (`torch.Tensor` of shape `(batch,)`, int64, *optional*): See [`MaskingRules.budgets`].
            rules ([`MaskingRules`], *optional*): Those of an update, see [`MaskingRules.at`].
        """
        return (self.rules.at() if rules is None else rules).total_budget(num_residues, keys)

    def __call__(self, examples: Sequence[Mapping]) -> dict[str, torch.Tensor]:
        """Run the CPU stage, see [`SequenceEncoder.__call__`]."""
        return self.sequence_encoder(examples)

    def hide_at_random(self, batch: Mapping[str, torch.Tensor], keys: torch.Tensor, rate: float) -> CorruptedBatch:
        """Replace a share of every row's residues by [MASK], at random: the masks of evaluation."""
        return corrupt_batch(batch, keys, self.vocabulary, MaskingRules(rate, (1.0, 0.0, 0.0)))

    def corrupt(
        self,
        batch: Mapping[str, torch.Tensor],
        keys: torch.Tensor | None = None,
        *,
        rules: MaskingRules | None = None,
        mask_at_random: Callable[..., tuple[torch.Tensor, ...]] | None = None,
    ) -> CorruptedBatch:
        """Mask a batch of the CPU stage.

        Args:
            batch (`Mapping[str, torch.Tensor]`): Result of calling the collator, on the device.
            keys (`torch.Tensor` of shape `(batch,)`, int64, *optional*): Keys of the rows' noise, see
                [`keyed_random.row_keys`]. By default they are drawn from PyTorch's global generator.
            rules ([`MaskingRules`], *optional*): In place of the collator's, such as those of an update from
                [`MaskingRules.at`].
            mask_at_random (`Callable`, *optional*): See [`corrupt_batch`].

        Returns:
            [`CorruptedBatch`]
        """
        keys = _drawn_keys(batch) if keys is None else keys
        rules = self.rules.at() if rules is None else rules
        return corrupt_batch(batch, keys, self.vocabulary, rules, mask_at_random=mask_at_random)


class DataCollatorForAdversarialMLM(DataCollatorForRandomMLM):
    """Masks of a trainable noiser, and random masks. The collator owns the noiser.

    `NoiserConfig.view` says what the noiser sees of the protein.

    With `frozen=True` the noiser is not trained, and calling the collator masks in the workers, on the CPU. The result
    is `input_ids`, `attention_mask` and `labels` as from `DataCollatorForLanguageModeling`, for any trainer. Noise and
    windows are then drawn from PyTorch's generator, which a `DataLoader` seeds anew in every worker and epoch.

    Args:
        tokenizer (`PreTrainedTokenizerBase`): The encoder's tokenizer.
        noiser ([`NoiserModel`]): A noiser for this tokenizer (`NoiserConfig.from_tokenizer`).
        max_length (`int`, *optional*, defaults to 512): Largest number of tokens in a row, including special tokens;
            longer sequences are cropped at random.
        adversarial_rate (`float`, *optional*, defaults to 0.1): Share of the residues that the noiser masks.
        random_rate (`float`, *optional*, defaults to 0.1): Share of the residues masked at random in addition.
        pad_to_multiple_of (`int`, *optional*): Round the padded length up to a multiple of this.
        seed (`int`, *optional*, defaults to 0): Seed of the crops.
        frozen (`bool`, *optional*, defaults to `False`): Whether to mask when called, with a copy of the noiser in
            evaluation mode, without gradients and on the CPU. Not for [`AdversarialMLMTrainer`].
        mask_rate (`str` or `Sequence[str]`, *optional*), mask_rate_curve (`str`, *optional*): As for
            [`DataCollatorForRandomMLM`], in place of the sum of both rates, which keep their proportion.
        **masking: The other fields of [`rules.MaskingRules`]: `mask_options` (of the random masks), `learned_options`
            (whether the noiser also chooses how to mask), `sampler`, `selection`, `gated`, `temperature`,
            `candidate_rate`.

    Raises:
        ValueError: If a rate or share is out of range, if options contradict each other, or if the noiser belongs to
            another tokenizer.
    """

    noiser: NoiserModel
    chooses_positions = True

    def __init__(
        self,
        tokenizer: PreTrainedTokenizerBase,
        noiser: NoiserModel,
        max_length: int = 512,
        adversarial_rate: float = 0.1,
        random_rate: float = 0.1,
        pad_to_multiple_of: int | None = None,
        seed: int = 0,
        frozen: bool = False,
        mask_rate: str | Sequence[str] = (),
        mask_rate_curve: str = "linear",
        **masking,
    ):
        check_class("noiser", noiser, NoiserModel)
        check_number("adversarial_rate", adversarial_rate)
        if adversarial_rate <= 0:
            raise ValueError(
                f"adversarial_rate must be above 0, got {adversarial_rate}: for random masks only, use masking: "
                "random (DataCollatorForRandomMLM)"
            )
        blind = noiser.config.view == "blind"
        masking |= {"rate_schedule": mask_rate, "rate_curve": mask_rate_curve}
        rules = MaskingRules(random_rate=random_rate, adversarial_rate=adversarial_rate, blind=blind, **masking)
        if frozen and rules.schedule is not None and rules.schedule.changes:
            raise ValueError(
                "mask_rate changes during the run, but a collator with frozen=True does not know the update: give one "
                "rate or range"
            )
        if not rules.keeps_order:
            logger.warning(
                f"temperature is {rules.temperature:g}: below {ORDERED_TEMPERATURE}, the largest values of sampler: "
                f"{rules.sampler} may not be those of score + noise, in short proteins; use a higher temperature"
            )
        self._set_up(tokenizer, rules, max_length, pad_to_multiple_of, seed)
        noiser.config.check_vocabulary(self.vocabulary)
        self.frozen = frozen
        self.noiser = copy.deepcopy(noiser).cpu().eval().requires_grad_(False) if frozen else noiser

    def __call__(self, examples: Sequence[Mapping]) -> dict[str, torch.Tensor]:
        """Run the CPU stage, see [`SequenceEncoder.__call__`]; with `frozen` also mask.

        Args:
            examples (`Sequence[Mapping]`): Each has a `sequence` (`str`).

        Returns:
            `dict[str, torch.Tensor]`: With `frozen`, `input_ids`, `attention_mask` and `labels` (-100 where nothing is
            masked), each `(batch, length)`, int64.
        """
        batch = super().__call__(examples)
        if not self.frozen:
            return batch
        corrupted = self.corrupt(batch)
        return {name: getattr(corrupted, name) for name in ("input_ids", "attention_mask", "labels")}

    def corrupt(
        self,
        batch: Mapping[str, torch.Tensor],
        keys: torch.Tensor | None = None,
        *,
        differentiable: bool = False,
        one_hot: bool | None = None,
        noiser: torch.nn.Module | None = None,
        adversarial_share: float = 1.0,
        rules: MaskingRules | None = None,
        mask_at_random: Callable[..., tuple[torch.Tensor, ...]] | None = None,
    ) -> CorruptedBatch:
        """Mask a batch of the CPU stage with the noiser.

        Args:
            batch (`Mapping[str, torch.Tensor]`): Result of calling the collator, on the noiser's device.
            keys (`torch.Tensor` of shape `(batch,)`, int64, *optional*): Keys of the rows' noise, see
                [`keyed_random.row_keys`]. By default they are drawn from PyTorch's global generator.
            differentiable (`bool`, *optional*, defaults to `False`): Whether the noiser runs with a graph.
            one_hot (`bool`, *optional*): Whether to return `one_hot`, which passes a gradient from the encoder's
                inputs to the noiser. Defaults to `differentiable`.
            noiser (`torch.nn.Module`, *optional*): Called instead of the collator's noiser, for a trainer that has
                wrapped it for distributed training.
            adversarial_share (`float`, *optional*, defaults to 1.0): Share of `adversarial_rate` for the noiser; the
                rest becomes random masks. With 0 the noiser is not called.
            rules ([`MaskingRules`], *optional*): In place of the collator's, such as those of an update from
                [`MaskingRules.at`].
            mask_at_random (`Callable`, *optional*): See [`corrupt_batch`].

        Returns:
            [`CorruptedBatch`]
        """
        with torch.set_grad_enabled(differentiable and torch.is_grad_enabled()):
            return corrupt_batch(
                batch,
                _drawn_keys(batch) if keys is None else keys,
                self.vocabulary,
                (self.rules.at() if rules is None else rules).with_adversarial_share(adversarial_share),
                self.noiser if noiser is None else noiser,
                one_hot=differentiable if one_hot is None else one_hot,
                mask_at_random=mask_at_random,
            )
