"""How many floating-point operations the updates of an arm take: of matrix products, two for a multiply-add.

A linear layer costs 2 · in · out for every token, a convolution that times its kernel, a GRU 6 · units · (in + units),
attention 4 · length · hidden; a backward pass costs the same for the gradient of its inputs, and once more for that of
its weights. Counted are the tokens of the windows that are read, without padding, and no activation twice where it is
computed again to save memory. An encoder counts as trained as a whole, also where `trained_layers` leaves a part of it
alone. Samplers, norms and the optimizer have no matrix products.
"""

import math
from dataclasses import dataclass
from typing import Any

import numpy as np
from torch import nn
from transformers import PreTrainedModel

from adversarial_mlm.recipes.recipe import Recipe
from adversarial_mlm.training.noiser_schedule import Alternation, Ramp
from adversarial_mlm.training.rewards import REWARDS


@dataclass(frozen=True)
class Tokens:
    """The tokens of an update.

    Attributes:
        count (`float`): Special ones included, padding not.
        squares (`float`): Sum over the rows of their length squared.
    """

    count: float
    squares: float

    @classmethod
    def of(cls, residues: np.ndarray, records: np.ndarray, rows: int, max_length: int, special: int = 2) -> "Tokens":
        """The mean of an update.

        Args:
            residues (`np.ndarray` of shape `(lengths,)`): The lengths that the proteins have.
            records (`np.ndarray` of shape `(lengths,)`): How many have each.
            rows (`int`): Proteins of an update.
            max_length (`int`): Longest row in tokens.
            special (`int`, defaults to 2): Special tokens of a row.
        """
        lengths = np.minimum(residues.astype(np.float64) + special, max_length)
        share = records / records.sum()
        return cls(rows * float(lengths @ share), rows * float(lengths**2 @ share))


@dataclass(frozen=True)
class Network:
    """What one forward pass of a network costs.

    Attributes:
        per_token (`float`): Of its layers.
        per_square (`float`): Of attention, by length squared of each row.
    """

    per_token: float
    per_square: float

    @classmethod
    def of(cls, network: PreTrainedModel, attention_layers: int) -> "Network":
        """The cost of a network, every layer of which reads every token.

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
        """One forward pass."""
        return self.per_token * tokens.count + self.per_square * tokens.squares

    def input_gradient(self, tokens: Tokens) -> float:
        """A backward pass that leaves out the weights' gradients. Both factors of attention's products are inputs."""
        return self.per_token * tokens.count + 2 * self.per_square * tokens.squares

    def training(self, tokens: Tokens) -> float:
        """Forward and whole backward pass."""
        return 3 * self.forward(tokens)


class ArmFlops:
    """What each update of an arm costs, the noiser's share included.

    Args:
        recipe ([`Recipe`]): Of the arm.
        encoder (`PreTrainedModel`): Its encoder.
        noiser (`PreTrainedModel`, *optional*): Its noiser.
        tokens ([`Tokens`]): Of an update.
    """

    def __init__(self, recipe: Recipe, encoder: PreTrainedModel, noiser: PreTrainedModel | None, tokens: Tokens):
        args = recipe.training
        network = Network.of(encoder, encoder.config.num_hidden_layers)
        self.encoder_update = network.training(tokens)
        self.noiser = None
        self._mode, self._every = args.noiser_update, args.noiser_every
        self._share = Ramp(args.adversarial_share, "adversarial_share")
        self._turns = Alternation(args.noiser_steps, args.encoder_steps, args.shared_phase_counter)
        if noiser is None:
            return
        layers = noiser.config.num_hidden_layers if noiser.config.backbone == "transformer" else 0
        self.noiser = Network.of(noiser, layers)
        self.masking = self.noiser.forward(tokens)
        # the one-hots of the straight-through gradient times the embedding table, there and back
        soft = 4.0 * encoder.config.vocab_size * encoder.get_input_embeddings().embedding_dim * tokens.count
        training, extra = self.noiser.training(tokens), 0.0
        reward = REWARDS[args.noiser_reward]
        if reward.has_slow_encoder:
            extra += network.forward(tokens)
        through = reward.through_encoder
        self.along = training - self.masking + extra + (soft if through else 0.0)
        reading = network.forward(tokens) + (network.input_gradient(tokens) + soft if through else 0.0)
        self.noiser_update = training + extra + reading

    def update(self, step: int) -> float:
        """The encoder's update number `step`, and what the noiser does before and with it."""
        total = self.encoder_update
        if self.noiser is None or self._share(step) == 0:
            return total
        total += self.masking
        if self._mode == "reversal" and step % self._every == 0:
            total += self.along
        if self._mode == "alternate":
            total += len(self._turns.noiser_updates_before(step)) * self.noiser_update
        return total

    def of(self, updates: int) -> float:
        """So many updates of the encoder, from the first on."""
        return math.fsum(self.update(step) for step in range(updates))

    def updates_for(self, amount: float) -> int:
        """How many updates of the encoder come nearest to an amount; at least one."""
        done, step = 0.0, 0
        while True:
            after = done + self.update(step)
            if after >= amount:
                return max(step + (after - amount <= amount - done), 1)
            done, step = after, step + 1

    def as_dict(self) -> dict[str, Any]:
        """Plain values for JSON: FLOPs of an update of the encoder, of masking, of an update of the noiser."""
        found = {"encoder_update": self.encoder_update}
        if self.noiser is not None:
            found |= {"masking": self.masking, "noiser_update": self.noiser_update, "noiser_along": self.along}
        return found
