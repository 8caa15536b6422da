"""What the noiser is paid for.

In every scheme the noiser climbs one number. It has up to two parts: the encoder's loss, whose gradient comes
through the encoder and the straight-through one-hots (`through_encoder`), and a part whose gradient goes to the
noiser's scores directly ([`NoiserReward.direct`]). The trainer adds up whichever a reward has and knows nothing else.

| name | the noiser is paid | gradient |
| --- | --- | --- |
| `loss` | the encoder's loss (the paper) | through the encoder |
| `surprise` | the loss minus the residue's background surprise, −log of its share in the training data | both |
| `reducible` | the loss minus that of a slow copy of the encoder | both |
| `credit` | each chosen residue's own loss, compared with the row's random masks | direct |
| `predictor` | for predicting the loss; it masks where it expects much (no game) | direct |
"""

import copy
import os
from collections.abc import Callable

import torch
from safetensors.torch import load_model, save_model
from torch import nn

from .losses import token_losses
from .noising import NoisedBatch

REWARDS = ("loss", "surprise", "reducible", "credit", "predictor")

SLOW_ENCODER_FILE = "slow_encoder.safetensors"


class NoiserReward:
    """The encoder's loss, and nothing beside it (`update_noiser` of Algorithm 4); the base of the others."""

    through_encoder = True

    def direct(self, noised: NoisedBatch, losses: torch.Tensor) -> torch.Tensor | float:
        """The part of the pay whose gradient does not come through the encoder.

        Args:
            noised ([`NoisedBatch`]): Corrupted with a graph.
            losses (`torch.Tensor` of shape `(batch, length)`): The encoder's cross-entropy of every masked residue,
                without a graph.

        Returns:
            `torch.Tensor`, the sum over the batch, to be maximised; 0 where there is no such part.
        """
        return 0.0

    def after_encoder_update(self, encoder: nn.Module) -> None:
        """Called after every update of the encoder."""

    def save(self, folder: str) -> None:
        """Write what a resumed run needs into a checkpoint."""

    def load(self, folder: str) -> None:
        """Read it back.

        Raises:
            ValueError: If it is not there.
        """


class SurpriseReward(NoiserReward):
    """The loss minus what a predictor loses that knows nothing but how frequent each residue is.

    A rare residue is expensive wherever it stands; this pay leaves what the place makes of it. With b_i the background
    surprise, the direct part is −Σ b_i m_i over the residues that the noiser masked, m_i being the relaxed choice.

    Args:
        log_shares (`torch.Tensor` of shape `(vocab,)`): See [`evaluation.background_log_shares`].
    """

    def __init__(self, log_shares: torch.Tensor):
        self.log_shares = log_shares

    def direct(self, noised: NoisedBatch, losses: torch.Tensor) -> torch.Tensor:
        true_ids = noised.labels.clamp_min(0)
        return _less_a_baseline(noised, -self.log_shares.to(losses.dtype)[true_ids])


class ReducibleReward(NoiserReward):
    """The loss minus that of an exponential moving average of the encoder on the same corrupted batch.

    What both find hard pays nothing. The direct part is −Σ slow_i m_i over the residues that the noiser masked; the
    slow copy is run without dropout and gives no gradient.

    Args:
        encoder (`nn.Module`): Copied as it is now.
        decay (`float`): Of the moving average, for each update of the encoder.
    """

    def __init__(self, encoder: nn.Module, decay: float):
        self.slow, self.decay = copy.deepcopy(encoder).eval().requires_grad_(False), decay

    @torch.no_grad()
    def _slow_losses(self, noised: NoisedBatch) -> torch.Tensor:
        logits = self.slow(input_ids=noised.input_ids, attention_mask=noised.attention_mask).logits
        return token_losses(logits, noised.labels)

    def direct(self, noised: NoisedBatch, losses: torch.Tensor) -> torch.Tensor:
        return _less_a_baseline(noised, self._slow_losses(noised))

    @torch.no_grad()
    def after_encoder_update(self, encoder: nn.Module) -> None:
        for slow, fast in zip(self.slow.parameters(), encoder.parameters(), strict=True):
            slow.lerp_(fast.detach(), 1 - self.decay)

    def save(self, folder: str) -> None:
        save_model(self.slow, os.path.join(folder, SLOW_ENCODER_FILE))

    def load(self, folder: str) -> None:
        path = os.path.join(folder, SLOW_ENCODER_FILE)
        if not os.path.isfile(path):
            raise ValueError(f"the checkpoint has no {path}, which noiser_reward: reducible needs to go on")
        load_model(self.slow, path)


def _less_a_baseline(noised: NoisedBatch, baseline: torch.Tensor) -> torch.Tensor:
    return -(torch.where(noised.adversarial, baseline, 0) * noised.choice.soft).sum()


class CreditReward(NoiserReward):
    """Each chosen residue's own loss times the gradient of the logarithm of its probability.

    Σ (loss_i − mean loss of the row's random masks) · (log π_i + log p(option_i)), with the closed-form inclusion
    probability π. For losses that do not depend on the other masks the gradient is, up to the quality of that closed
    form, unbiased for the expected loss of the noiser's masks; ∂ log π_i = (1 − π_i) ∂ log-odds_i, and the bare
    log-odds would overrate what is masked often. The effect of a mask on other residues is not seen. Nothing passes
    through the encoder, which so can be any network.
    """

    through_encoder = False

    def direct(self, noised: NoisedBatch, losses: torch.Tensor) -> torch.Tensor:
        choice = noised.choice
        at_random = (losses * noised.random).sum(dim=-1) / noised.random.sum(dim=-1).clamp_min(1)
        advantage = torch.where(noised.adversarial, losses - at_random[:, None], 0)
        log_probability = choice.probabilities.clamp_min(torch.finfo(choice.probabilities.dtype).tiny).log()
        if choice.winner is not None:
            options = torch.log_softmax(choice.scores.option_scores, dim=-1)
            log_probability = log_probability + options.gather(-1, choice.winner[..., None])[..., 0]
        return (advantage * log_probability).sum()


class PredictorReward(NoiserReward):
    """Minus the squared error of the any-mask score as a prediction of the residue's loss, over all masked residues.

    Being large where much loss is expected, the scores then choose those positions. How to mask is not learned.
    """

    through_encoder = False

    def direct(self, noised: NoisedBatch, losses: torch.Tensor) -> torch.Tensor:
        errors = noised.choice.scores.any_mask_scores - losses
        return -(torch.where(noised.masked, errors, 0) ** 2).sum()


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
