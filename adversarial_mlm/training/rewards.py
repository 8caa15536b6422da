"""What the noiser is paid for.

In every scheme the noiser climbs one number. It is the encoder's loss, whose gradient comes through the encoder and
the straight-through one-hots (`through_encoder`), or a sum whose gradient goes to the noiser's scores directly
([`NoiserReward.direct`]). The trainer adds up both and knows nothing else of a reward.

| name | the noiser is paid | gradient |
| --- | --- | --- |
| `loss` | the encoder's loss, of all masked residues together (the paper) | through the encoder |
| `credit` | each chosen residue's own loss | direct |
| `surprise` | that, minus the residue's background surprise, −log of its share in the training data | direct |
| `reducible` | that, minus the loss of a slow copy of the encoder | direct |
| `predictor` | for predicting the loss; it masks where it expects much (no game) | direct |
"""

import copy
import os
from collections.abc import Callable

import torch
from safetensors import SafetensorError
from safetensors.torch import load_model, save_model
from torch import nn

from adversarial_mlm.masking.corruption import CorruptedBatch
from adversarial_mlm.masking.losses import token_losses
from adversarial_mlm.models.attention_masks import encoder_mask
from adversarial_mlm.saving.run_files import SLOW_ENCODER_FILE
from adversarial_mlm.utils.errors import CheckpointError

REWARDS = ("loss", "surprise", "reducible", "credit", "predictor")


class NoiserReward:
    """The encoder's loss (`update_noiser` of Algorithm 4); the base of the others."""

    through_encoder = True

    def direct(self, corrupted: CorruptedBatch, losses: torch.Tensor) -> torch.Tensor | float:
        """The part of the pay whose gradient does not come through the encoder.

        Args:
            corrupted ([`CorruptedBatch`]): Corrupted with a graph.
            losses (`torch.Tensor` of shape `(batch, length)`): The encoder's cross-entropy of every masked residue at
                least, without a graph.

        Returns:
            `torch.Tensor`, the sum over the batch, to be maximised; 0 where there is no such part.
        """
        return 0.0

    def after_encoder_update(self, encoder: nn.Module, skipped: torch.Tensor) -> None:
        """Called after every update of the encoder.

        Args:
            encoder (`nn.Module`): As it is now.
            skipped (`torch.Tensor`): A scalar, bool: whether the update was left out, as it was not finite.
        """

    def save(self, folder: str) -> None:
        """Write what a resumed run needs into a checkpoint."""

    def load(self, folder: str) -> None:
        """Read it back.

        Raises:
            CheckpointError: If it is not there, damaged, or of another encoder.
        """


class CreditReward(NoiserReward):
    """Each chosen residue's own loss times the gradient of the logarithm of its probability.

    Σ_S (pay_i − mean pay of the row's random masks) · (log π_i + log p(option_i)), with the closed-form inclusion
    probability π and pay_i the residue's loss. For pays that do not depend on the other masks the gradient is, up to
    the quality of that closed form, unbiased for the expected pay of the noiser's masks; ∂ log π_i = (1 − π_i) ∂
    log-odds_i, and the bare log-odds would overrate what is masked often. The effect of a mask on other residues is
    not seen. Nothing passes through the encoder, which so can be any network.
    """

    through_encoder = False

    def pay(self, corrupted: CorruptedBatch, losses: torch.Tensor) -> torch.Tensor:
        """What masking each residue is worth, `(batch, length)`; read where a residue is masked."""
        return losses

    def direct(self, corrupted: CorruptedBatch, losses: torch.Tensor) -> torch.Tensor:
        choice = corrupted.choice
        pay = torch.where(corrupted.masked, self.pay(corrupted, losses), 0)
        at_random = (pay * corrupted.random).sum(dim=-1) / corrupted.random.sum(dim=-1).clamp_min(1)
        advantage = torch.where(corrupted.adversarial, pay - at_random[:, None], 0)
        log_probability = choice.probabilities.clamp_min(torch.finfo(choice.probabilities.dtype).tiny).log()
        if choice.winner is not None:
            options = torch.log_softmax(choice.scores.option_scores, dim=-1)
            log_probability = log_probability + options.gather(-1, choice.winner[..., None])[..., 0]
        return (advantage * log_probability).sum()


class SurpriseReward(CreditReward):
    """The loss minus what a predictor loses that knows nothing but how frequent each residue is.

    A rare residue is expensive wherever it stands; this pay leaves what the place makes of it.

    Args:
        log_shares (`torch.Tensor` of shape `(vocab,)`): See [`evaluation.background_log_shares`].
    """

    def __init__(self, log_shares: torch.Tensor):
        self.log_shares = log_shares

    def pay(self, corrupted: CorruptedBatch, losses: torch.Tensor) -> torch.Tensor:
        return losses + self.log_shares.to(losses.dtype)[corrupted.labels.clamp_min(0)]


class ReducibleReward(CreditReward):
    """The loss minus that of an exponential moving average of the encoder on the same corrupted batch.

    What both find as hard pays nothing. The slow copy is run without dropout.

    Args:
        encoder (`nn.Module`): Copied as it is now.
        decay (`float`): Of the moving average, for each update of the encoder.
    """

    def __init__(self, encoder: nn.Module, decay: float):
        self.slow, self.decay = copy.deepcopy(encoder).eval().requires_grad_(False), decay

    @torch.no_grad()
    def pay(self, corrupted: CorruptedBatch, losses: torch.Tensor) -> torch.Tensor:
        mask = encoder_mask(self.slow, corrupted.attention_mask, padded=True)
        logits = self.slow(input_ids=corrupted.input_ids, attention_mask=mask).logits
        return losses - token_losses(logits, corrupted.labels)

    @torch.no_grad()
    def after_encoder_update(self, encoder: nn.Module, skipped: torch.Tensor) -> None:
        for slow, fast in zip(self.slow.parameters(), encoder.parameters(), strict=True):
            slow.lerp_(torch.where(skipped, slow, fast.detach()), 1 - self.decay)

    def save(self, folder: str) -> None:
        save_model(self.slow, os.path.join(folder, SLOW_ENCODER_FILE))

    def load(self, folder: str) -> None:
        path = os.path.join(folder, SLOW_ENCODER_FILE)
        if not os.path.isfile(path):
            raise CheckpointError(f"the checkpoint has no {path}, which noiser_reward: reducible needs to go on")
        try:
            load_model(self.slow, path)
        except (RuntimeError, OSError, SafetensorError) as error:
            raise CheckpointError(f"{path} is damaged or does not fit this run's encoder") from error


class PredictorReward(NoiserReward):
    """Minus the squared error of a prediction of each masked residue's loss, compared with the mean of its row.

    The prediction is the any-mask score, compared with the same mean, over 10: a residue that is expected to cost
    0.2 nats more than its row is drawn e² = 7 times as readily. How to mask is not learned.
    """

    through_encoder = False
    scores_per_nat = 10.0

    def direct(self, corrupted: CorruptedBatch, losses: torch.Tensor) -> torch.Tensor:
        masked = corrupted.masked

        def centred(values: torch.Tensor) -> torch.Tensor:
            values = torch.where(masked, values, 0)
            mean = values.sum(dim=-1, keepdim=True) / masked.sum(dim=-1, keepdim=True).clamp_min(1)
            return torch.where(masked, values - mean, 0)

        predicted = centred(corrupted.choice.scores.any_mask_scores / self.scores_per_nat)
        return -((predicted - centred(losses)) ** 2).sum()


def build_reward(
    name: str, encoder: nn.Module, log_shares: Callable[[], torch.Tensor | None], slow_encoder_decay: float
) -> NoiserReward:
    """The reward of that name.

    Args:
        name (`str`): One of `REWARDS`.
        encoder (`nn.Module`): As it is now.
        log_shares (`Callable`): Gives the logarithm of each token's share in the training data, or `None` where that
            cannot be told.
        slow_encoder_decay (`float`): Of [`ReducibleReward`].

    Raises:
        ValueError: If there is no such reward, or if the training data cannot tell the residues' shares.
    """
    match name:
        case "loss":
            return NoiserReward()
        case "surprise":
            shares = log_shares()
            if shares is None:
                raise ValueError("noiser_reward: surprise needs the residues' shares, which a stream cannot tell")
            return SurpriseReward(shares)
        case "reducible":
            return ReducibleReward(encoder, slow_encoder_decay)
        case "credit":
            return CreditReward()
        case "predictor":
            return PredictorReward()
    raise ValueError(f"noiser_reward must be one of {', '.join(REWARDS)}, got '{name}'")
