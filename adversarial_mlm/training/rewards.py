"""What the noiser maximises.

A reward is the encoder's loss, whose gradient comes through the encoder and the straight-through one-hots
(`through_encoder`), or a sum whose gradient reaches the noiser's scores directly ([`NoiserReward.direct`]). The game
adds up both and knows nothing else of a reward. To add one, write a class and enter it into `REWARDS`.

| name | what the noiser maximises | gradient |
| --- | --- | --- |
| `loss` | the encoder's loss over all masked residues (the paper) | through the encoder |
| `credit` | the loss of each residue that it chose | direct |
| `surprise` | the same minus the residue's background surprise, −log of its frequency in the training data | direct |
| `reducible` | the same minus the loss of a slow copy of the encoder | direct |
| `predictor` | how well it predicts the loss; it masks where it expects a high loss (no game) | direct |
"""

import copy
import os
from collections.abc import Callable

import torch
from safetensors import SafetensorError
from safetensors.torch import load_model, save_model
from torch import nn
from transformers import PreTrainedModel

from adversarial_mlm.masking.corruption import CorruptedBatch, NoiserChoice
from adversarial_mlm.masking.losses import token_losses
from adversarial_mlm.models.attention_masks import encoder_mask
from adversarial_mlm.saving.run_files import SLOW_ENCODER_FILE
from adversarial_mlm.utils.errors import CheckpointError


class NoiserReward:
    """The encoder's loss (`update_noiser` of Algorithm 4); the base of the others.

    Attributes:
        description (`str`): What the noiser maximises, for model cards.
        through_encoder (`bool`): Whether the encoder's loss is a part of it, whose gradient comes through the encoder.
        needs_mask_probability (`bool`): Whether it needs the closed-form probability of each mask.
        needs_background (`bool`): Whether it needs the frequencies of residues in the training data.
        has_slow_encoder (`bool`): Whether it runs a slow copy of the encoder (`slow_encoder_decay`).
    """

    description = "the encoder's loss over all masked residues"
    through_encoder = True
    needs_mask_probability = False
    needs_background = False
    has_slow_encoder = False

    @classmethod
    def build(
        cls, encoder: PreTrainedModel, log_shares: Callable[[], torch.Tensor | None], slow_encoder_decay: float
    ) -> "NoiserReward":
        """The reward for a run.

        Args:
            encoder (`PreTrainedModel`): As it is now.
            log_shares (`Callable`): Returns the logarithm of each token's frequency in the training data `(vocab,)`,
                or `None` for a stream.
            slow_encoder_decay (`float`): See [`ReducibleReward`].

        Raises:
            ValueError: If the reward needs the frequencies and there are none.
        """
        return cls()

    def direct(self, corrupted: CorruptedBatch, losses: torch.Tensor) -> torch.Tensor | float:
        """The part of the reward whose gradient does not come through the encoder.

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

    Σ_S (r_i − mean r of the row's random masks) · (log π_i + log p(option_i)), with the closed-form inclusion
    probability π and the residue's loss r_i. If r_i does not depend on the other masks, the gradient is unbiased for
    the expected sum over the noiser's masks, up to the quality of the closed form. It uses log π_i because
    ∂ log π_i = (1 − π_i) ∂ log-odds_i; plain log-odds would overrate residues that are masked often. The effect of a
    mask on other residues is not seen. No gradient passes through the encoder, which can be any network.
    """

    description = "the loss of each residue that it chose"
    through_encoder = False
    needs_mask_probability = True

    def value(self, corrupted: CorruptedBatch, losses: torch.Tensor) -> torch.Tensor:
        """What masking each residue is worth, `(batch, length)`; read where a residue is masked."""
        return losses

    def direct(self, corrupted: CorruptedBatch, losses: torch.Tensor) -> torch.Tensor:
        choice = _choice(corrupted)
        value = torch.where(corrupted.masked, self.value(corrupted, losses), 0)
        at_random = (value * corrupted.random).sum(dim=-1) / corrupted.random.sum(dim=-1).clamp_min(1)
        advantage = torch.where(corrupted.adversarial, value - at_random[:, None], 0)
        log_probability = choice.probabilities.clamp_min(torch.finfo(choice.probabilities.dtype).tiny).log()
        if choice.winner is not None:
            options = torch.log_softmax(choice.scores.option_scores, dim=-1)
            log_probability = log_probability + options.gather(-1, choice.winner[..., None])[..., 0]
        return (advantage * log_probability).sum()


class SurpriseReward(CreditReward):
    """The loss minus that of the background predictor, which knows only how frequent each residue is.

    A rare residue has a high loss at any position. What is left is the part that depends on the position.

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
                "noiser_reward: surprise needs the frequencies of the residues, which are not known for a stream"
            )
        return cls(shares)

    def __init__(self, log_shares: torch.Tensor):
        self.log_shares = log_shares

    def value(self, corrupted: CorruptedBatch, losses: torch.Tensor) -> torch.Tensor:
        return losses + self.log_shares.to(losses.dtype)[corrupted.labels.clamp_min(0)]


class ReducibleReward(CreditReward):
    """The loss minus that of an exponential moving average of the encoder on the same corrupted batch.

    Residues that both find equally hard give no reward. The slow copy runs without dropout.

    Args:
        encoder (`PreTrainedModel`): Copied as it is now.
        decay (`float`): Of the moving average, for each update of the encoder.
    """

    description = "the loss of each residue that it chose, minus that of a slow copy of the encoder"
    has_slow_encoder = True

    @classmethod
    def build(
        cls, encoder: PreTrainedModel, log_shares: Callable[[], torch.Tensor | None], slow_encoder_decay: float
    ) -> "ReducibleReward":
        return cls(encoder, slow_encoder_decay)

    def __init__(self, encoder: PreTrainedModel, decay: float):
        self.slow, self.decay = copy.deepcopy(encoder), decay
        self.slow.eval().requires_grad_(False)

    @torch.no_grad()
    def value(self, corrupted: CorruptedBatch, losses: torch.Tensor) -> torch.Tensor:
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


def _choice(corrupted: CorruptedBatch) -> NoiserChoice:
    if corrupted.choice is None:
        raise ValueError("the batch was corrupted without a noiser, so there is no choice to reward")
    return corrupted.choice


# the order is the order in which options and messages list them
REWARDS: dict[str, type[NoiserReward]] = {
    "loss": NoiserReward,
    "surprise": SurpriseReward,
    "reducible": ReducibleReward,
    "credit": CreditReward,
    "predictor": PredictorReward,
}
