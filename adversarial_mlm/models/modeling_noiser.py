"""The noiser: a network that scores for each residue whether to mask it, and how."""

import math
from dataclasses import dataclass

import torch
from torch import nn
from transformers import PreTrainedModel
from transformers import initialization as init
from transformers.utils import ModelOutput

from adversarial_mlm.models.configuration_noiser import NoiserConfig
from adversarial_mlm.models.noiser_backbones import DilatedConvolutions, NoiserTransformer, ResidueGRU

_BACKBONES = {"gru": ResidueGRU, "conv": DilatedConvolutions, "transformer": NoiserTransformer}

# order of the option scores; from REPLACE on, there is one score for each of config.replacement_ids
MASK, KEEP, REPLACE = 0, 1, 2


@dataclass
class NoiserOutput(ModelOutput):
    """Unnormalised scores of the noiser, in float32 or higher precision.

    Attributes:
        any_mask_scores (`torch.Tensor` of shape `(batch, length)`): `s[:, :, 0]` of the paper: whether to mask a
            position.
        option_scores (`torch.Tensor` of shape `(batch, length, 2 + replacements)`): `s[:, :, 1:]` of the paper: how to
            mask it: [MASK], keep the residue, or replace it by one of `config.replacement_ids`.
    """

    any_mask_scores: torch.Tensor
    option_scores: torch.Tensor = None  # type: ignore[assignment]  # always there, but ModelOutput needs a default


class NoiserModel(PreTrainedModel):
    """Token embedding, backbone and one linear score head (section 2 and Algorithm 2, `M_noiser^(seq)`).

    The paper's backbone is a GRU. The noiser shares no weights with the encoder. With the view `context`, the backbone
    hides the scored residue. With `blind`, the caller hides the candidates ([`corruption.corrupt_batch`]).

    An untrained noiser masks exactly at random. The weights of its head are zero, so all positions have the same
    any-mask score, and the corruption mix is `config.initial_mask_options`.
    """

    config: NoiserConfig
    config_class = NoiserConfig
    base_model_prefix = "noiser"
    main_input_name = "input_ids"

    def __init__(self, config: NoiserConfig):
        super().__init__(config)
        self.embeddings = nn.Embedding(config.vocab_size, config.embedding_size, padding_idx=config.pad_token_id)
        self.backbone = _BACKBONES[config.backbone](config)
        self.score = nn.Linear(config.hidden_size, 1 + 2 + len(config.replacement_ids))
        self.post_init()

    def _init_weights(self, module: nn.Module) -> None:
        if isinstance(module, nn.Embedding):
            # PyTorch's unit variance; with BERT's 0.02 the GRU could hardly tell residues apart
            init.normal_(module.weight, mean=0.0, std=1.0)
            init.zeros_(module.weight[module.padding_idx])
        elif isinstance(module, nn.GRU):
            bound = 1 / math.sqrt(module.hidden_size)
            for parameter in module.parameters():
                init.uniform_(parameter, -bound, bound)
        elif module is self.score:
            init.zeros_(module.weight)
            init.copy_(module.bias, self._initial_bias())
        elif isinstance(module, (nn.Conv1d, nn.Linear)):
            init.kaiming_normal_(module.weight, nonlinearity="linear")
            if module.bias is not None:
                init.zeros_(module.bias)
        elif isinstance(module, nn.LayerNorm):
            init.ones_(module.weight)
            if module.bias is not None:
                init.zeros_(module.bias)

    def _initial_bias(self) -> torch.Tensor:
        mask, keep, replace = self.config.initial_mask_options
        count = len(self.config.replacement_ids)
        return torch.tensor([0.0, math.log(mask), math.log(keep)] + [math.log(replace / count)] * count)

    def forward(self, input_ids: torch.Tensor, attention_mask: torch.Tensor | None = None) -> NoiserOutput:
        """Score every position.

        Args:
            input_ids (`torch.Tensor` of shape `(batch, length)`): Proteins with special tokens, padded on the right.
                With the view `blind`, candidates are [MASK].
            attention_mask (`torch.Tensor` of shape `(batch, length)`, *optional*): 0 at padding, by default nowhere.
                Padding does not change the scores of other positions.

        Returns:
            [`NoiserOutput`]
        """
        if attention_mask is None:
            attention_mask = torch.ones_like(input_ids)
        hidden = self.backbone(self.embeddings(input_ids), attention_mask)  # (batch, length, hidden)
        scores = self.score(hidden)  # (batch, length, 1 + 2 + replacements)
        scores = scores.to(torch.promote_types(scores.dtype, torch.float32))
        return NoiserOutput(any_mask_scores=scores[..., 0], option_scores=scores[..., 1:])
