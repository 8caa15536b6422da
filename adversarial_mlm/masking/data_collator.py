"""Collators: from sequences to batches, and from batches to corrupted batches.

A collator runs ahead of time in worker processes, where neither the newest noiser nor its gradient is at hand. So both
collators here have two stages. Calling one (`collator(examples)`) does the work of the CPU: encode, crop, pad, mark
the residues. `collator.corrupt(batch, keys)` then decides on the device what is masked, and is what the trainer calls.
A noiser that is no longer trained has no such need: with `frozen=True` calling the collator does both.
"""

import copy
import os
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
import torch
from transformers import PreTrainedTokenizerBase

from adversarial_mlm.data.order import crop_start
from adversarial_mlm.masking.corruption import CorruptedBatch, corrupt_batch
from adversarial_mlm.masking.rules import MaskingRules
from adversarial_mlm.masking.sampling import exact_budget
from adversarial_mlm.models.modeling_noiser import NoiserModel
from adversarial_mlm.models.tokenization_protein import ByteTable, ResidueVocabulary

RECORDS = "records"
"""Key of a batch for the number and the id of every row's record: a list, which stays on the host."""


class SequenceEncoder:
    """The stage for the CPU: examples with a `sequence` to a padded batch. Light, so that workers may have a copy.

    Args:
        tokenizer (`PreTrainedTokenizerBase`): Encodes one residue to one token. It is read off once; a [`ByteTable`]
            does its work.
        max_length (`int`, *optional*, defaults to 512): Longest row, special tokens included. A longer sequence takes
            a random window, a fresh one each epoch.
        pad_to_multiple_of (`int`, *optional*): Round the padded length up.
        seed (`int`, *optional*, defaults to 0): Of the crops.

    Raises:
        ValueError: If `max_length` leaves no room for a residue, or if the tokenizer does not read one residue as one
            token or lacks a token that is needed.
    """

    def __init__(
        self,
        tokenizer: PreTrainedTokenizerBase,
        max_length: int = 512,
        pad_to_multiple_of: int | None = None,
        seed: int = 0,
    ):
        self.vocabulary = ResidueVocabulary.from_tokenizer(tokenizer)
        self.table = ByteTable.from_tokenizer(tokenizer)
        self.max_residues = max_length - len(self.table.prefix) - len(self.table.suffix)
        if self.max_residues < 1:
            raise ValueError(f"max_length is {max_length}, which leaves no room for a residue beside special tokens")
        self.max_length, self.pad_to_multiple_of, self.seed = max_length, pad_to_multiple_of, seed
        self._is_residue = np.zeros(self.vocabulary.vocab_size, dtype=bool)
        self._is_residue[list(self.vocabulary.residue_ids)] = True
        self.names_records = False  # a trainer's loader may want to know later what was in a batch
        self._stateful_crops: dict[int, np.random.Generator] = {}

    def __call__(self, examples: Sequence[Mapping]) -> dict[str, torch.Tensor]:
        """Encode, crop and pad.

        Args:
            examples (`Sequence[Mapping]`): Each with a `sequence` (`str`); with `epoch` and `record` (`int`) the crop
                is a function of them, without them it is drawn afresh each time. A `filler` (`bool`) only fills
                the batch: it has no residues to mask, and so no part in any loss.

        Returns:
            `dict[str, torch.Tensor]`: `input_ids` (int64), `attention_mask` (int64) and `residue_mask` (bool), each
            `(batch, length)`, and `num_residues` `(batch,)` int64.
        """
        if not all("sequence" in example for example in examples):
            raise ValueError(
                f"an example has no 'sequence', only {', '.join(examples[0]) or 'nothing'}; in a Trainer of "
                "transformers' own, set remove_unused_columns=False"
            )
        rows = [self._crop(self.table.encode(example["sequence"]), example) for example in examples]
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
        if self.names_records:
            batch[RECORDS] = [(example.get("record"), example.get("id")) for example in examples]
        return batch

    def _crop(self, ids: np.ndarray, example: Mapping) -> np.ndarray:
        if len(ids) <= self.max_residues:
            return ids
        if "record" in example and "epoch" in example:
            start = crop_start(len(ids), self.max_residues, self.seed, example["epoch"], example["record"])
        else:
            start = int(self._worker_generator().integers(len(ids) - self.max_residues + 1))
        return ids[start : start + self.max_residues]

    def _worker_generator(self) -> np.random.Generator:
        # one for each process, seeded by what PyTorch gives each worker: forked workers must not share their crops
        generator = self._stateful_crops.get(os.getpid())
        if generator is None:
            generator = np.random.default_rng([self.seed, torch.initial_seed()])
            self._stateful_crops[os.getpid()] = generator
        return generator


def _drawn_keys(batch: Mapping[str, torch.Tensor]) -> torch.Tensor:
    size, device = len(batch["input_ids"]), batch["input_ids"].device
    return torch.randint(-(2**63), 2**63 - 1, (size,), device=device)


class DataCollatorForRandomMLM:
    """Random masks, exact numbers of them in every protein: the baseline, and what evaluation uses.

    Args:
        tokenizer (`PreTrainedTokenizerBase`): Of the encoder.
        max_length (`int`, *optional*, defaults to 512): Longest row, special tokens included; longer sequences are
            cropped at random.
        random_rate (`float`, *optional*, defaults to 0.2): Share of the residues that is masked.
        mask_options (`Sequence[float]`, *optional*, defaults to `(0.8, 0.1, 0.1)`): Shares of [MASK], keep and
            replace-by-a-standard-residue.
        pad_to_multiple_of (`int`, *optional*): Round the padded length up.
        seed (`int`, *optional*, defaults to 0): Of the crops. The masks' noise comes with the keys.

    Raises:
        ValueError: If a rate or share is out of range.
    """

    noiser: NoiserModel | None = None

    def __init__(
        self,
        tokenizer: PreTrainedTokenizerBase,
        max_length: int = 512,
        random_rate: float = 0.2,
        mask_options: Sequence[float] = (0.8, 0.1, 0.1),
        pad_to_multiple_of: int | None = None,
        seed: int = 0,
    ):
        rules = MaskingRules(random_rate=random_rate, mask_options=tuple(mask_options))
        self._set_up(tokenizer, rules, max_length, pad_to_multiple_of, seed)

    def _set_up(self, tokenizer, rules: MaskingRules, max_length: int, pad_to_multiple_of: int | None, seed: int):
        self.tokenizer, self.rules = tokenizer, rules
        self.sequence_encoder = SequenceEncoder(tokenizer, max_length, pad_to_multiple_of, seed)

    @property
    def vocabulary(self) -> ResidueVocabulary:
        """What counts as a residue, and what may replace one."""
        return self.sequence_encoder.vocabulary

    def mask_budget(self, num_residues: torch.Tensor) -> torch.Tensor:
        """How many residues of a row with `num_residues` are masked in any way; int64, of the same shape."""
        return exact_budget(num_residues, self.rules.mask_rate)

    def __call__(self, examples: Sequence[Mapping]) -> dict[str, torch.Tensor]:
        """The CPU stage, see [`SequenceEncoder.__call__`]."""
        return self.sequence_encoder(examples)

    def hide_at_random(self, batch: Mapping[str, torch.Tensor], keys: torch.Tensor, rate: float) -> CorruptedBatch:
        """Replace that share of every row's residues by [MASK], at random: the masks of evaluation."""
        return corrupt_batch(batch, keys, self.vocabulary, MaskingRules(rate, (1.0, 0.0, 0.0)))

    def corrupt(self, batch: Mapping[str, torch.Tensor], keys: torch.Tensor | None = None) -> CorruptedBatch:
        """Mask a batch of the CPU stage.

        Args:
            batch (`Mapping[str, torch.Tensor]`): What calling the collator returned, on the device.
            keys (`torch.Tensor` of shape `(batch,)`, int64, *optional*): Of the rows' noise, see
                [`keyed_noise.row_keys`]. The default draws them from PyTorch's global generator.

        Returns:
            [`CorruptedBatch`]
        """
        return corrupt_batch(batch, _drawn_keys(batch) if keys is None else keys, self.vocabulary, self.rules)


class DataCollatorForAdversarialMLM(DataCollatorForRandomMLM):
    """Masks chosen by a trainable noiser, and random ones beside them. The noiser lives here.

    What the noiser sees is a property of the noiser (`NoiserConfig.view`).

    With `frozen=True` the noiser stays as it is and calling the collator does the whole job, in the workers and on
    their CPU: `input_ids`, `attention_mask` and `labels`, as `DataCollatorForLanguageModeling` gives them, for any
    trainer. Noise and windows are then drawn from PyTorch's generator, which a `DataLoader` seeds anew in every worker
    and epoch.

    Args:
        tokenizer (`PreTrainedTokenizerBase`): Of the encoder.
        noiser ([`NoiserModel`]): Made for this tokenizer (`NoiserConfig.from_tokenizer`).
        max_length (`int`, *optional*, defaults to 512): Longest row, special tokens included; longer sequences are
            cropped at random.
        adversarial_rate (`float`, *optional*, defaults to 0.1): Share of the residues that the noiser masks.
        random_rate (`float`, *optional*, defaults to 0.1): Share that is masked at random, beside those.
        pad_to_multiple_of (`int`, *optional*): Round the padded length up.
        seed (`int`, *optional*, defaults to 0): Of the crops.
        frozen (`bool`, *optional*, defaults to `False`): Whether to mask when called, with a copy of the noiser that
            is in evaluation mode, without gradients and on the CPU. Not for [`AdversarialMLMTrainer`].
        **masking: The other fields of [`noising.MaskingRules`]: `mask_options` (of the random masks),
            `learned_options` (whether the noiser chooses how to mask, too), `sampler`, `selection`, `gated`,
            `temperature`, `candidate_rate`.

    Raises:
        ValueError: If a rate or share is out of range, if options contradict each other, or if the noiser was made for
            another tokenizer.
    """

    noiser: NoiserModel

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
        **masking,
    ):
        if adversarial_rate <= 0:
            raise ValueError(f"adversarial_rate must be above 0, got {adversarial_rate}")
        blind = noiser.config.view == "blind"
        rules = MaskingRules(random_rate=random_rate, adversarial_rate=adversarial_rate, blind=blind, **masking)
        self._set_up(tokenizer, rules, max_length, pad_to_multiple_of, seed)
        noiser.config.check_vocabulary(self.vocabulary)
        self.frozen = frozen
        self.noiser = copy.deepcopy(noiser).cpu().eval().requires_grad_(False) if frozen else noiser

    def __call__(self, examples: Sequence[Mapping]) -> dict[str, torch.Tensor]:
        """The CPU stage, see [`SequenceEncoder.__call__`]; with `frozen` the whole job.

        Args:
            examples (`Sequence[Mapping]`): Each with a `sequence` (`str`).

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
    ) -> CorruptedBatch:
        """Let the noiser mask a batch of the CPU stage.

        Args:
            batch (`Mapping[str, torch.Tensor]`): What calling the collator returned, on the noiser's device.
            keys (`torch.Tensor` of shape `(batch,)`, int64, *optional*): Of the rows' noise, see
                [`keyed_noise.row_keys`]. The default draws them from PyTorch's global generator.
            differentiable (`bool`, *optional*, defaults to `False`): Whether the noiser runs with a graph.
            one_hot (`bool`, *optional*): Whether `one_hot` is wanted, through which a gradient of the encoder's inputs
                reaches the noiser. Defaults to `differentiable`.
            noiser (`torch.nn.Module`, *optional*): Called in place of the collator's own; for a trainer that has
                wrapped it, as for distributed training.
            adversarial_share (`float`, *optional*, defaults to 1.0): Share of `adversarial_rate` that the noiser has;
                random masks fill up. With 0 the noiser is not called.

        Returns:
            [`CorruptedBatch`]
        """
        with torch.set_grad_enabled(differentiable and torch.is_grad_enabled()):
            return corrupt_batch(
                batch,
                _drawn_keys(batch) if keys is None else keys,
                self.vocabulary,
                self.rules.with_adversarial_share(adversarial_share),
                self.noiser if noiser is None else noiser,
                one_hot=differentiable if one_hot is None else one_hot,
            )
