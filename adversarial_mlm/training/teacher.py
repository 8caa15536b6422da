"""A teacher: a second encoder that reads the same corrupted batch, and says what can be learned about each residue."""

import os
from typing import Any, cast

import torch
from accelerate import Accelerator
from safetensors import SafetensorError
from safetensors.torch import load_model, save_model
from torch import nn
from transformers import PreTrainedModel
from transformers.modeling_outputs import MaskedLMOutput

from adversarial_mlm.masking.corruption import CorruptedBatch
from adversarial_mlm.masking.data_collator import DataCollatorForRandomMLM
from adversarial_mlm.masking.losses import learnability, soft_target_losses
from adversarial_mlm.models.encoders import number_of_positions
from adversarial_mlm.models.loading import load_encoder
from adversarial_mlm.models.tokenization_protein import ResidueVocabulary
from adversarial_mlm.saving.run_files import TEACHER_FILE
from adversarial_mlm.training.metrics_log import Means
from adversarial_mlm.training.slow_copy import follow, logits_of, slow_copy
from adversarial_mlm.training.training_args import AdversarialMLMTrainingArguments
from adversarial_mlm.utils.errors import AdversarialMLMError, CheckpointError
from adversarial_mlm.utils.hardware import on_device

_LEAST_MEAN = 1e-6  # nats; below, teacher and encoder are the same but for rounding
_MOST = 10.0  # times the mean, which a residue counts at most


class _State(nn.Module):
    """What a checkpoint holds: the mean learnability (0 before the first update), and the weights of an average."""

    mean: torch.Tensor

    def __init__(self, network: PreTrainedModel | None, device: torch.device):
        super().__init__()
        self.network = network
        self.register_buffer("mean", torch.zeros((), dtype=torch.float64, device=device))


class Teacher:
    """Weights the masked residues of the encoder's loss by what can be learned, and mixes soft targets into it.

    Both use the teacher's prediction p_T for a masked residue, from the same corrupted batch that the encoder reads.
    So weights are a function of the encoder's input, and do not change for which prediction its loss is least: they
    leak nothing. No gradient passes through them.

    - `loss_weights: learnability`: w = (1 − β) + β min(u / ū, 10) with u = KL(p_T ‖ p) over the 20 residues. ū is the
      mean of u in the *previous* update, so an update does not depend on how its batch is split. All weights are 1 in
      the first update, and after one in which ū was below 1e-6, as where the teacher is still the encoder itself.
    - `soft_targets` λ: (1 − λ) · cross-entropy + λ · (−Σ p_T log p).

    With `noiser_reward: learnability` it measures u for the noiser.

    Args:
        args ([`AdversarialMLMTrainingArguments`]): Arguments.
        collator ([`DataCollatorForRandomMLM`]): Its vocabulary has the 20 residues.
        accelerator (`Accelerator`): The accelerator of the run.

    Attributes:
        figures ([`Means`]): `learnability` (mean u) and `teacher_loss` (its cross-entropy), since last read, in nats:
            means over masked residues.

    Raises:
        CheckpointError: If `reference_model` cannot be loaded.
        AdversarialMLMError: If its vocabulary or its number of positions does not fit.
    """

    def __init__(
        self, args: AdversarialMLMTrainingArguments, collator: DataCollatorForRandomMLM, accelerator: Accelerator
    ):
        self.args, self.accelerator = args, accelerator
        self._residues = torch.tensor(collator.vocabulary.replacement_ids, device=args.device)
        self._reference = None if args.teacher == "ema" else _load(args, collator)
        self._state = _State(None, args.device)
        self._pending = torch.zeros(2, dtype=torch.float64, device=args.device)  # sum of u in this update, and count
        self.figures = Means("learnability", "teacher_loss", device=args.device)
        self._soft = args.soft_target_ramp(max(args.max_steps, 1))  # -1 for num_train_epochs; `prepare` knows better

    @property
    def network(self) -> PreTrainedModel:
        """The teacher's network. A moving average exists after [`prepare`]."""
        return cast(PreTrainedModel, self._state.network if self._reference is None else self._reference)

    def prepare(self, encoder: PreTrainedModel, max_steps: int, checkpoint: str | None = None) -> None:
        """Get ready to train.

        Args:
            encoder (`PreTrainedModel`): With its first weights, on the device.
            max_steps (`int`): Steps of the run.
            checkpoint (`str`, *optional*): The checkpoint from which the run resumes.

        Raises:
            CheckpointError: If the checkpoint has no moving average that fits, but one is needed.
        """
        self._soft = self.args.soft_target_ramp(max_steps)
        self._pending.zero_()
        self._state = _State(slow_copy(encoder) if self._reference is None else None, self.args.device)
        if self._reference is not None:
            self._reference = on_device(self._reference, self.args.device)
        if checkpoint is not None:
            self._load(checkpoint)

    def _load(self, checkpoint: str) -> None:
        path = os.path.join(checkpoint, TEACHER_FILE)
        if not os.path.isfile(path):
            if self._reference is not None:
                return  # the run begins to use it now
            raise CheckpointError(f"the checkpoint has no {path}, which teacher: ema needs to resume")
        try:
            load_model(self._state, path, strict=self._reference is None)
        except (RuntimeError, OSError, SafetensorError) as error:
            raise CheckpointError(f"{path} is damaged or does not fit this run's encoder") from error

    def save(self, folder: str) -> None:
        """Write what a resumed run needs into a checkpoint."""
        save_model(self._state, os.path.join(folder, TEACHER_FILE))

    def soft_share(self, step: int) -> float:
        """λ at a step of the encoder."""
        return self._soft(step)

    def is_used(self, step: int) -> bool:
        """Whether the teacher reads the batches of a step."""
        return self.args.loss_weights == "learnability" or self.soft_share(step) > 0

    @torch.no_grad()
    def learnability(self, corrupted: CorruptedBatch, logits: torch.Tensor) -> torch.Tensor:
        """Return u of every residue, `(batch, length)`, in nats, and count it in the mean of this update.

        Args:
            corrupted ([`CorruptedBatch`]): What the encoder has read.
            logits (`torch.Tensor` of shape `(batch, length, vocab)`): The encoder's.
        """
        return self._measured(corrupted, logits)[1]

    def _measured(self, corrupted: CorruptedBatch, logits: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
        """The teacher's logits, and what [`learnability`] returns."""
        masked = corrupted.masked
        with self.accelerator.autocast():
            taught = logits_of(self.network, corrupted)
        with torch.autocast(logits.device.type, enabled=False):
            gain = learnability(taught, logits.detach(), self._residues)
            count = masked.sum()
            total = torch.where(masked, gain, 0).double().sum()
            self._pending += torch.stack([total, count.double()])
            truth = torch.log_softmax(taught.to(gain.dtype), dim=-1).gather(
                -1, corrupted.labels.clamp_min(0)[..., None]
            )
            taught_loss = -torch.where(masked, truth[..., 0], 0).double().sum()
            self.figures.add(count, learnability=total / count, teacher_loss=taught_loss / count)
        return taught, gain

    def applied(
        self,
        outputs: MaskedLMOutput,
        losses: torch.Tensor,
        weights: torch.Tensor,
        corrupted: CorruptedBatch,
        step: int,
    ) -> tuple[torch.Tensor, torch.Tensor]:
        """Return the losses and weights of the encoder's update.

        Args:
            outputs (`MaskedLMOutput`): The encoder's, with `logits` `(batch, length, vocab)`.
            losses (`torch.Tensor` of shape `(batch, length)`): Its cross-entropies.
            weights (`torch.Tensor` of shape `(batch, length)`): What each of them counts.
            corrupted ([`CorruptedBatch`]): The batch.
            step (`int`): Step of the encoder.

        Returns:
            Two `torch.Tensor` of shape `(batch, length)`: of residues that are not masked as they were given.
        """
        if not self.is_used(step):
            return losses, weights
        masked, share = corrupted.masked, self.soft_share(step)
        logits = cast(torch.Tensor, outputs.logits)
        with torch.no_grad():
            taught, gain = self._measured(corrupted, logits)
        with torch.autocast(logits.device.type, enabled=False):
            if share:
                soft = soft_target_losses(taught, logits, self._residues)
                losses = torch.where(masked, (1 - share) * losses + share * soft, losses)
            if self.args.loss_weights == "learnability":
                mean, beta = self._state.mean, self.args.learnability_share
                ratio = torch.where(mean > _LEAST_MEAN, (gain / mean.clamp_min(_LEAST_MEAN)).clamp_max(_MOST), 1.0)
                weights = torch.where(masked, weights * ((1 - beta) + beta * ratio).to(weights.dtype), weights)
        return losses, weights

    @torch.no_grad()
    def after_encoder_update(self, encoder: nn.Module, skipped: torch.Tensor) -> None:
        """Called after every update of the encoder, see [`NoiserReward.after_encoder_update`]."""
        total, count = self.accelerator.reduce(self._pending, reduction="sum")
        self._pending = torch.zeros_like(self._pending)
        mean, now = self._state.mean, total / count.clamp_min(1)
        self._state.mean.copy_(torch.where(skipped | (count == 0) | ~torch.isfinite(now), mean, now))
        if self._reference is None:
            follow(self.network, encoder, self.args.teacher_decay, skipped)


def _load(args: AdversarialMLMTrainingArguments, collator: DataCollatorForRandomMLM) -> PreTrainedModel:
    name: Any = args.reference_model
    try:
        network, tokenizer = load_encoder(name, needs_head=True)
    except CheckpointError as error:
        raise CheckpointError(str(error).replace("model_name_or_path", "reference_model", 1)) from error
    if ResidueVocabulary.from_tokenizer(tokenizer) != collator.vocabulary:
        raise AdversarialMLMError(
            f"reference_model is {name}, whose tokenizer has another vocabulary than the encoder's: use a model with "
            "the same one"
        )
    positions, max_length = number_of_positions(network), collator.sequence_encoder.max_length
    if positions is not None and max_length > positions:
        raise AdversarialMLMError(
            f"reference_model is {name}, which has {positions} positions, but max_length is {max_length}: use at most "
            f"{positions}"
        )
    return network.eval().requires_grad_(False)
