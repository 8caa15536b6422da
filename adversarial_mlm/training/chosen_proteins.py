"""With `masking: chosen_proteins`: the noiser chooses the proteins of an encoder update, and learns from it."""

from collections.abc import Callable, Sequence
from typing import Any

import torch
from accelerate import Accelerator

from adversarial_mlm.data.length_chunks import joined, rows_of
from adversarial_mlm.masking.corruption import CorruptedBatch
from adversarial_mlm.masking.keyed_random import ENCODER_PHASE, row_keys
from adversarial_mlm.masking.protein_choice import choose_proteins
from adversarial_mlm.masking.protein_collator import DataCollatorForChosenProteinsMLM
from adversarial_mlm.masking.rules import MaskingRules
from adversarial_mlm.training.teacher import Teacher

_ROW, _RESIDUES, _LEARNABLE = range(3)


class ProteinChoice:
    """Keeps a share of the rows of an update, with an exact number over all processes.

    The draw is a function of what the noiser predicts and of the rows' keys. How rows are divided among micro-batches
    and processes does not change it.

    Args:
        collator ([`DataCollatorForChosenProteinsMLM`]): Has the noiser, and the share.
        seed (`int`): Seed of the run.
        accelerator (`Accelerator`): The accelerator of the run.
        to_device (`Callable`): Puts a batch on the device of the run.
    """

    def __init__(
        self,
        collator: DataCollatorForChosenProteinsMLM,
        seed: int,
        accelerator: Accelerator,
        to_device: Callable[[dict], dict],
    ):
        self.collator, self.seed, self.accelerator, self.to_device = collator, seed, accelerator, to_device

    @torch.no_grad()
    def of_update(self, batches: Sequence[dict], step: int, rules: MaskingRules) -> tuple[list[dict], float]:
        """Return the micro-batches that are trained on, as many as are given, and the lift of the choice.

        The host waits for the noiser's predictions. A process that keeps no protein gets a row without residues.

        Args:
            batches (`Sequence[dict]`): Micro-batches of this process, on the host, with `row` `(batch,)`.
            step (`int`): Step of the encoder.
            rules ([`MaskingRules`]): Those of the step.

        Returns:
            `list[dict]`, and the mean prediction for the chosen proteins divided by that for all; 1 without any
            preference.
        """
        own = [self._described(batch, step, rules) for batch in batches]
        everyone = self._of_all_processes(torch.cat(own)).cpu()
        rows, real = everyone[:, _ROW].long(), everyone[:, _RESIDUES] > 0
        learnable = torch.where(real, everyone[:, _LEARNABLE].exp(), 0)
        assert rules.protein_share is not None  # this collator sets it
        number = max(round(rules.protein_share * int(real.sum())), 1)
        kept = choose_proteins(row_keys(self.seed, ENCODER_PHASE, step, rows), learnable, number)
        lift = float(learnable[kept].mean() / learnable[real].mean()) if real.any() else 1.0
        return self._cut(batches, set(rows[kept].tolist())), lift

    def _described(self, batch: dict, step: int, rules: MaskingRules) -> torch.Tensor:
        """Row, number of residues and log prediction of each protein, `(batch, 3)`, float64, on the device."""
        keys, inputs = row_keys(self.seed, ENCODER_PHASE, step, batch["row"]), self.to_device(batch)
        masked = self.collator.corrupt(inputs, keys, rules=rules).masked
        with self.accelerator.autocast():
            predicted = self.collator.predict(inputs, masked).log_learnable.double()
        facts = torch.stack([batch["row"], batch["num_residues"]], dim=1).double()
        return torch.cat([facts.to(predicted.device), predicted[:, None]], dim=1)

    def _of_all_processes(self, rows: torch.Tensor) -> torch.Tensor:
        """The rows of all processes in the order of the global batch; each process may have another number."""
        if self.accelerator.num_processes > 1:
            rows = self.accelerator.gather(self.accelerator.pad_across_processes(rows, dim=0, pad_index=-1))
            rows = rows[rows[:, _ROW] >= 0]
        return rows[rows[:, _ROW].argsort()]

    def _cut(self, batches: Sequence[dict], kept: set[int]) -> list[dict]:
        """Divide the kept rows evenly among as many micro-batches."""
        whole = joined(batches, {"input_ids": self.collator.vocabulary.pad_token_id})
        chosen = [index for index, row in enumerate(whole["row"].tolist()) if row in kept]
        if not chosen:
            chosen = [0]
            whole = {**whole, "residue_mask": torch.zeros_like(whole["residue_mask"])}
            whole["num_residues"] = torch.zeros_like(whole["num_residues"])
        lengths = whole["attention_mask"].sum(dim=1)
        # the last micro-batches have the most rows, because gradients are summed after the last
        bounds = [len(chosen) * part // len(batches) for part in range(len(batches) + 1)]
        parts = [torch.tensor(chosen[a:b], dtype=torch.int64) for a, b in zip(bounds, bounds[1:], strict=False)]
        return [rows_of(whole, part, int(lengths[part].max()) if len(part) else 0) for part in parts]


class ChoiceLearner:
    """Trains the noiser of `masking: chosen_proteins` on what the teacher measures in an update of the encoder.

    Row p has m_p masked residues. U_p is the sum of their learnability KL(p_T || p), and r_p what the noiser predicts
    for one of them. It maximises the likelihood of sharing out Σ U among the rows, in proportion to m r:

        Σ_p U_p log(m_p r_p / Σ_q m_q r_q) / Σ_q U_q

    This is largest in the mean for r in proportion to the mean learnability of a row, given what the noiser sees.
    Reported is by how much it is above that of equal r.

    The sums are over all rows of the update, whatever micro-batch or process has read them.

    Args:
        collator ([`DataCollatorForChosenProteinsMLM`]): Has the noiser.
        teacher ([`Teacher`]): Measures the learnability.
        accelerator (`Accelerator`): The accelerator of the run.
    """

    def __init__(self, collator: DataCollatorForChosenProteinsMLM, teacher: Teacher, accelerator: Accelerator):
        self.collator, self.teacher, self.accelerator = collator, teacher, accelerator
        self._measured: list[dict[str, torch.Tensor]] = []

    @torch.no_grad()
    def measure(self, inputs: dict, corrupted: CorruptedBatch, logits: torch.Tensor) -> None:
        """Measure what the encoder can learn from a batch, and keep it for [`backward`].

        Args:
            inputs (`dict`): The batch before corruption, on the device.
            corrupted ([`CorruptedBatch`]): What the encoder has read.
            logits (`torch.Tensor` of shape `(batch, length, vocab)`): The encoder's.
        """
        masked = corrupted.masked
        gain = torch.where(masked, self.teacher.learnability(corrupted, logits.detach()), 0).sum(dim=1)
        kept = {name: inputs[name] for name in ("input_ids", "attention_mask")}
        self._measured.append({**kept, "masked": masked, "gain": gain})

    def backward(self, noiser: Callable[..., Any]) -> torch.Tensor | None:
        """Add the gradient of what was measured since the last call to the noiser's parameters.

        Args:
            noiser (`Callable`): The noiser, as it is wrapped for distributed training.

        Returns:
            `torch.Tensor`, a scalar: the reward over all processes; `None` if nothing was measured.
        """
        if not self._measured:
            return None
        rows = joined(self._measured, {"input_ids": self.collator.vocabulary.pad_token_id})
        self._measured = []
        with self.accelerator.autocast():
            log_r = self.collator.predict(rows, rows["masked"], noiser).log_learnable.double()
        number, gain = rows["masked"].sum(dim=1).double(), rows["gain"].double()
        own = (number * log_r.exp()).sum()
        sums = torch.stack([own.detach(), number.sum(), gain.sum(), (gain * log_r.detach()).sum()])
        predicted, masked, learnable, weighted = self.accelerator.reduce(sums, reduction="sum").unbind()
        learnable = learnable.clamp_min(torch.finfo(torch.float64).tiny)
        # a gradient as if all rows were in this process; DistributedDataParallel takes the mean of the processes
        part = (gain * log_r).sum() / learnable - own / predicted.clamp_min(torch.finfo(torch.float64).tiny)
        (-part * self.accelerator.num_processes).backward()
        return weighted / learnable - torch.log(predicted / masked)
