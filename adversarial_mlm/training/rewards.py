"""Rewards: what the noiser maximises.

A reward has one or two parts:

- The encoder's loss. Its gradient passes through the encoder and straight-through one-hot vectors (`through_encoder`).
- A term whose gradient goes directly to the noiser's scores ([`NoiserReward.direct`]).

To add a reward, write a class and add it to `REWARDS`.

| name | what the noiser maximises | gradient |
| --- | --- | --- |
| `loss` | the encoder's loss over all masked residues (the paper) | through the encoder |
| `credit` | the loss of each residue that it chose | direct |
| `surprise` | as `credit`, minus the loss of the background predictor, −log of the residue's frequency | direct |
| `reducible` | as `credit`, minus the loss of a slow copy of the encoder | direct |
| `predictor` | minus the error of its predictions of the loss; it masks where it predicts a high loss | direct |
| `learnability` | how well it predicts what can be learned from each protein (`masking: chosen_proteins`) | direct |
"""

import os
from collections.abc import Callable

import torch
from safetensors import SafetensorError
from safetensors.torch import load_model, save_model
from torch import nn
from transformers import PreTrainedModel

from adversarial_mlm.masking.corruption import CorruptedBatch, NoiserChoice
from adversarial_mlm.masking.losses import token_losses
from adversarial_mlm.saving.run_files import SLOW_ENCODER_FILE
from adversarial_mlm.training.slow_copy import follow, logits_of, slow_copy
from adversarial_mlm.utils.errors import CheckpointError


class NoiserReward:
    """The encoder's loss (`update_noiser` of Algorithm 4); base class of all rewards.

    Attributes:
        description (`str`): What the noiser maximises, for model cards.
        through_encoder (`bool`): Whether the encoder's loss is part of the reward.
        needs_mask_probability (`bool`): Whether it needs the closed-form probability of each mask.
        needs_background (`bool`): Whether it needs the frequencies of residues in the training data.
        has_slow_encoder (`bool`): Whether it has a slow copy of the encoder (`slow_encoder_decay`).
        needs_teacher (`bool`): Whether it needs a [`Teacher`].
    """

    description = "the encoder's loss over all masked residues"
    through_encoder = True
    needs_mask_probability = False
    needs_background = False
    has_slow_encoder = False
    needs_teacher = False

    @classmethod
    def build(
        cls, encoder: PreTrainedModel, log_shares: Callable[[], torch.Tensor | None], slow_encoder_decay: float
    ) -> "NoiserReward":
        """Build the reward for a run.

        Args:
            encoder (`PreTrainedModel`): The encoder with its current weights.
            log_shares (`Callable`): Returns the logarithm of each token's frequency in the training data `(vocab,)`,
                or `None` for a stream.
            slow_encoder_decay (`float`): See [`ReducibleReward`].

        Raises:
            ValueError: If the reward needs the frequencies but the training data are streamed.
        """
        return cls()

    def direct(self, corrupted: CorruptedBatch, losses: torch.Tensor) -> torch.Tensor | float:
        """The part of the reward whose gradient does not pass through the encoder.

        Args:
            corrupted ([`CorruptedBatch`]): A batch that was corrupted with gradients.
            losses (`torch.Tensor` of shape `(batch, length)`): The encoder's cross-entropy, at least of the masked
                residues, without a gradient.

        Returns:
            `torch.Tensor`, a scalar: the sum over the batch. 0 if the reward has no such part.

        Raises:
            ValueError: If the batch was corrupted without a noiser.
        """
        return 0.0

    def after_encoder_update(self, encoder: nn.Module, skipped: torch.Tensor) -> None:
        """Called after every update of the encoder.

        Args:
            encoder (`nn.Module`): The encoder with its new weights.
            skipped (`torch.Tensor`): A scalar, bool: whether the update was skipped.
        """

    def save(self, folder: str) -> None:
        """Write the state of the reward into a checkpoint."""

    def load(self, folder: str) -> None:
        """Read the state of the reward from a checkpoint.

        Raises:
            CheckpointError: If it is missing or damaged, or does not fit the encoder.
        """


class CreditReward(NoiserReward):
    """The loss of each residue that the noiser chose, as credit for its choice (a policy gradient).

    Σ_S (r_i − mean r of the row's random masks) · (log π_i + log p(option_i)), with the closed-form inclusion
    probability π_i and the loss r_i of residue i. If r_i does not depend on the other masks, the gradient estimates
    that of the expected sum over the noiser's masks, up to the accuracy of the closed form. For the options it is
    unbiased. For the positions it is about n / (n − 1) times too large in a row of n residues (or candidates), because
    the random masks lie outside of S (docs/algorithm.md). Without random masks, it is unbiased.

    The effect of a mask on the loss of other residues is ignored. No gradient passes through the encoder, so any
    encoder works.
    """

    description = "the loss of each residue that it chose"
    through_encoder = False
    needs_mask_probability = True

    def value(self, corrupted: CorruptedBatch, losses: torch.Tensor) -> torch.Tensor:
        """Reward for masking each residue, `(batch, length)`. Only masked residues are used."""
        return losses

    def direct(self, corrupted: CorruptedBatch, losses: torch.Tensor) -> torch.Tensor:
        choice = _choice(corrupted)
        value, random = self.value(corrupted, losses), corrupted.random
        at_random = torch.where(random, value, 0).sum(dim=-1) / random.sum(dim=-1).clamp_min(1)
        advantage = torch.where(corrupted.adversarial, value - at_random[:, None], 0)
        log_probability = choice.probabilities.clamp_min(torch.finfo(choice.probabilities.dtype).tiny).log()
        if choice.winner is not None:
            options = torch.log_softmax(choice.scores.option_scores, dim=-1)
            log_probability = log_probability + options.gather(-1, choice.winner[..., None])[..., 0]
        return (advantage * log_probability).sum()


class SurpriseReward(CreditReward):
    """The loss minus that of the background predictor, which predicts each residue's frequency.

    A rare residue has a high loss at any position. The difference depends on the position.

    Args:
        log_shares (`torch.Tensor` of shape `(vocab,)`): See [`evaluation.background_log_shares`].
    """

    description = "the loss of each residue that it chose, minus its background surprise"
    needs_background = True

    @classmethod
    def build(
        cls, encoder: PreTrainedModel, log_shares: Callable[[], torch.Tensor | None], slow_encoder_decay: float
    ) -> "SurpriseReward":
        shares = log_shares()
        if shares is None:
            raise ValueError(
                "noiser_reward: surprise needs the frequencies of the residues, which are unknown for a stream"
            )
        return cls(shares)

    def __init__(self, log_shares: torch.Tensor):
        self.log_shares = log_shares

    def value(self, corrupted: CorruptedBatch, losses: torch.Tensor) -> torch.Tensor:
        return losses + self.log_shares.to(losses.dtype)[corrupted.labels.clamp_min(0)]


class ReducibleReward(CreditReward):
    """The loss minus that of a slow copy of the encoder on the same corrupted batch.

    The slow copy is an exponential moving average of the encoder's weights. It has no dropout. Residues that are
    equally hard for both give no reward.

    Args:
        encoder (`PreTrainedModel`): The encoder, which is copied.
        decay (`float`): Decay of the moving average per update of the encoder.
    """

    description = "the loss of each residue that it chose, minus that of a slow copy of the encoder"
    has_slow_encoder = True

    @classmethod
    def build(
        cls, encoder: PreTrainedModel, log_shares: Callable[[], torch.Tensor | None], slow_encoder_decay: float
    ) -> "ReducibleReward":
        return cls(encoder, slow_encoder_decay)

    def __init__(self, encoder: PreTrainedModel, decay: float):
        self.slow, self.decay = slow_copy(encoder), decay

    @torch.no_grad()
    def value(self, corrupted: CorruptedBatch, losses: torch.Tensor) -> torch.Tensor:
        return losses - token_losses(logits_of(self.slow, corrupted), corrupted.labels)

    def after_encoder_update(self, encoder: nn.Module, skipped: torch.Tensor) -> None:
        follow(self.slow, encoder, self.decay, skipped)

    def save(self, folder: str) -> None:
        save_model(self.slow, os.path.join(folder, SLOW_ENCODER_FILE))

    def load(self, folder: str) -> None:
        path = os.path.join(folder, SLOW_ENCODER_FILE)
        if not os.path.isfile(path):
            raise CheckpointError(f"the checkpoint has no {path}, which noiser_reward: reducible needs to resume")
        try:
            load_model(self.slow, path)
        except (RuntimeError, OSError, SafetensorError) as error:
            raise CheckpointError(f"{path} is damaged or does not fit this run's encoder") from error


class PredictorReward(NoiserReward):
    """Minus the squared error of the noiser's prediction of each masked residue's loss.

    Losses and predictions are centred on their mean over the masked residues of a row. The prediction is the any-mask
    score divided by 10: if a residue's predicted loss is 0.2 nats higher, its odds to be masked are e² = 7 times
    higher. The corruption mix is not learned.
    """

    description = "how well it predicts the loss; it masks where it expects a high loss"
    through_encoder = False
    scores_per_nat = 10.0

    def direct(self, corrupted: CorruptedBatch, losses: torch.Tensor) -> torch.Tensor:
        masked = corrupted.masked

        def centred(values: torch.Tensor) -> torch.Tensor:
            values = torch.where(masked, values, 0)
            mean = values.sum(dim=-1, keepdim=True) / masked.sum(dim=-1, keepdim=True).clamp_min(1)
            return torch.where(masked, values - mean, 0)

        predicted = centred(_choice(corrupted).scores.any_mask_scores / self.scores_per_nat)
        return -((predicted - centred(losses)) ** 2).sum()


class LearnabilityReward(NoiserReward):
    """How well the noiser predicts from which proteins the encoder can learn most, for `masking: chosen_proteins`.

    It compares all proteins of an update, see [`chosen_proteins.ChoiceLearner`], so it is no sum over batches.
    """

    description = "how well it predicts from which proteins the encoder can learn most"
    through_encoder = False
    needs_teacher = True


def _choice(corrupted: CorruptedBatch) -> NoiserChoice:
    if corrupted.choice is None:
        raise ValueError("the batch was corrupted without a noiser, so there is no choice to reward")
    return corrupted.choice


# in the order in which options and messages list them
REWARDS: dict[str, type[NoiserReward]] = {
    "loss": NoiserReward,
    "surprise": SurpriseReward,
    "reducible": ReducibleReward,
    "credit": CreditReward,
    "predictor": PredictorReward,
    "learnability": LearnabilityReward,
}
