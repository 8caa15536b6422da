"""Floating-point operations of an arm's updates: matrix products only, two per multiply-add.

Cost per token of a forward pass:

- linear layer: 2 · in · out; convolution: that times its kernel;
- GRU: 6 · units · (in + units);
- attention: 4 · length · hidden.

A backward pass costs the same for the gradients of the inputs, and once more for those of the weights. Padding and
recomputed activations do not count. `trained_layers` is ignored: the encoder counts as trained as a whole.
"""

import bisect
import functools
import math
from dataclasses import dataclass
from typing import Any

import numpy as np
from torch import nn
from transformers import PreTrainedModel

from adversarial_mlm.recipes.recipe import Recipe
from adversarial_mlm.training.noiser_schedule import Alternation
from adversarial_mlm.training.rewards import REWARDS
from adversarial_mlm.utils.ramp import Ramp


@dataclass(frozen=True)
class Tokens:
    """Number of tokens in an update.

    Attributes:
        count (`float`): Tokens, including special ones, without padding.
        squares (`float`): Sum over the rows of their length squared.
    """

    count: float
    squares: float

    @classmethod
    def of(cls, residues: np.ndarray, records: np.ndarray, rows: int, max_length: int, special: int = 2) -> "Tokens":
        """Compute the mean over updates from a histogram of protein lengths.

        Args:
            residues (`np.ndarray` of shape `(lengths,)`): Distinct protein lengths, in residues.
            records (`np.ndarray` of shape `(lengths,)`): Number of proteins of each length.
            rows (`int`): Proteins in an update.
            max_length (`int`): Largest number of tokens in a row.
            special (`int`, defaults to 2): Special tokens in a row.
        """
        lengths = np.minimum(residues.astype(np.float64) + special, max_length)
        share = records / records.sum()
        return cls(rows * float(lengths @ share), rows * float(lengths**2 @ share))

    def times(self, share: float) -> "Tokens":
        """Those of an update with a share of the rows, drawn at random."""
        return Tokens(share * self.count, share * self.squares)


@dataclass(frozen=True)
class Network:
    """FLOPs of one forward pass of a network.

    Attributes:
        per_token (`float`): FLOPs of its layers, per token.
        per_square (`float`): FLOPs of attention, per squared length of a row.
    """

    per_token: float
    per_square: float

    @classmethod
    def of(cls, network: PreTrainedModel, attention_layers: int) -> "Network":
        """Count a network, assuming that every layer reads every token.

        Args:
            network (`PreTrainedModel`): The network.
            attention_layers (`int`): How many of its layers attend to the whole row.
        """
        per_token = 0.0
        for module in network.modules():
            if isinstance(module, nn.Linear):
                per_token += 2 * module.in_features * module.out_features
            elif isinstance(module, nn.Conv1d):
                per_token += 2 * module.in_channels * module.out_channels * module.kernel_size[0]
            elif isinstance(module, nn.GRU):
                per_token += 6 * module.hidden_size * (module.input_size + module.hidden_size)
        return cls(per_token, 4.0 * network.config.hidden_size * attention_layers)

    def forward(self, tokens: Tokens) -> float:
        """Return the FLOPs of a forward pass."""
        return self.per_token * tokens.count + self.per_square * tokens.squares

    def input_gradient(self, tokens: Tokens) -> float:
        """Return the FLOPs of a backward pass without weight gradients. Both attention factors are inputs."""
        return self.per_token * tokens.count + 2 * self.per_square * tokens.squares

    def training(self, tokens: Tokens) -> float:
        """Return the FLOPs of a forward and a full backward pass."""
        return 3 * self.forward(tokens)


class ArmFlops:
    """FLOPs of the updates of an arm, including the noiser's.

    Args:
        recipe ([`Recipe`]): The arm's pre-training recipe.
        encoder (`PreTrainedModel`): The arm's encoder.
        noiser (`PreTrainedModel`, *optional*): The arm's noiser.
        tokens ([`Tokens`]): Tokens of an update.
        teacher (`PreTrainedModel`, *optional*): The `reference_model`; a moving average has the size of the encoder.
            It counts in the updates in which it is used.
    """

    def __init__(
        self,
        recipe: Recipe,
        encoder: PreTrainedModel,
        noiser: PreTrainedModel | None,
        tokens: Tokens,
        teacher: PreTrainedModel | None = None,
    ):
        args = recipe.training
        network = Network.of(encoder, encoder.config.num_hidden_layers)
        trained = tokens.times(recipe.masking.trained_share)
        self.encoder_update = network.training(trained)
        self._args, self.teaching = args, 0.0
        self._soft_targets = functools.cache(args.soft_target_ramp)
        taught_by = network if teacher is None else Network.of(teacher, teacher.config.num_hidden_layers)
        if args.teaches_encoder:
            self.teaching = taught_by.forward(trained)
        self.noiser = None
        self._mode, self._every = args.noiser_update, args.noiser_every
        self._share = Ramp(args.adversarial_share, "adversarial_share")
        self._alternation = Alternation(args.noiser_steps, args.encoder_steps, args.shared_phase_counter)
        if noiser is None:
            return
        layers = noiser.config.num_hidden_layers if noiser.config.backbone == "transformer" else 0
        self.noiser = Network.of(noiser, layers)
        self.masking = self.noiser.forward(tokens)
        # straight-through gradient: one-hot vectors times the embedding table, forward and backward
        soft = 4.0 * encoder.config.vocab_size * encoder.get_input_embeddings().embedding_dim * tokens.count
        reward = REWARDS[args.noiser_reward]
        beside = [network] if reward.has_slow_encoder else [taught_by] if reward.needs_teacher else []
        through = reward.through_encoder
        self.one_backward = self._with_graph(trained, beside) + (soft if through else 0.0)
        if recipe.masking.chooses_positions:  # with the graph in place of the pass without one
            self.one_backward -= self.masking
        reading = network.forward(tokens) + (network.input_gradient(tokens) + soft if through else 0.0)
        self.noiser_update = self._with_graph(tokens, beside) + reading

    def _with_graph(self, tokens: Tokens, beside: list[Network]) -> float:
        """FLOPs of the noiser's passes over a batch, and of those of networks that its reward needs."""
        assert self.noiser is not None  # it has a reward
        return self.noiser.training(tokens) + sum(network.forward(tokens) for network in beside)

    def update(self, step: int, updates: int) -> float:
        """Return the FLOPs of encoder update `step` of `updates`, with its masking and the noiser updates before."""
        total = self.encoder_update + (self.teaching if self._is_taught(step, updates) else 0.0)
        if self.noiser is None or self._share(step) == 0:
            return total
        total += self.masking
        if self._mode == "reversal" and step % self._every == 0:
            total += self.one_backward
        if self._mode == "alternate":
            total += len(self._alternation.noiser_updates_before(step)) * self.noiser_update
        return total

    def _is_taught(self, step: int, updates: int) -> bool:
        if not self.teaching:
            return False
        return self._args.loss_weights != "uniform" or self._soft_targets(updates)(step) > 0

    def of(self, updates: int) -> float:
        """Return the FLOPs of the first `updates` encoder updates."""
        return math.fsum(self.update(step, updates) for step in range(updates))

    def updates_for(self, amount: float) -> int:
        """Return the number of encoder updates, at least one, whose FLOPs are nearest to `amount`."""
        most = 1
        while self.of(most) < amount:
            most *= 2
        # the least number that reaches the amount; what an update costs may depend on the number
        updates = bisect.bisect_left(range(most), amount, key=self.of)
        before, after = amount - self.of(updates - 1), self.of(updates) - amount
        return max(updates - (before < after), 1)

    def as_dict(self) -> dict[str, Any]:
        """Return plain values for JSON: FLOPs of an encoder update, of masking, of a noiser update."""
        found = {"encoder_update": self.encoder_update}
        if self.teaching:
            found["teaching"] = self.teaching
        if self.noiser is not None:
            found |= {"masking": self.masking, "noiser_update": self.noiser_update, "noiser_along": self.one_backward}
        return found
