"""The noiser: a network that scores every residue for being masked, and for how."""

import math
from dataclasses import dataclass

import torch
from torch import nn
from torch.nn.utils.rnn import pack_padded_sequence, pad_packed_sequence
from transformers import PreTrainedModel
from transformers import initialization as init
from transformers.utils import ModelOutput

from .configuration_noiser import NoiserConfig

# Order of the option scores; the scores from REPLACE on belong to config.replacement_ids, one each.
MASK, KEEP, REPLACE = 0, 1, 2


@dataclass
class NoiserOutput(ModelOutput):
    """Scores of the noiser, unnormalised, float32.

    Attributes:
        any_mask_scores (`torch.Tensor` of shape `(batch, length)`): `s[:, :, 0]` of the paper: whether to mask at all.
        option_scores (`torch.Tensor` of shape `(batch, length, 2 + replacements)`): `s[:, :, 1:]` of the paper: given
            that it is masked, [MASK], keep the residue, or put one of `config.replacement_ids` there.
    """

    any_mask_scores: torch.Tensor | None = None
    option_scores: torch.Tensor | None = None


class NoiserModel(PreTrainedModel):
    """The paper's noiser: token embedding, GRU, one linear score head (section 2 and Algorithm 2, `M_noiser^(seq)`).

    An untrained noiser is exactly a random masker: the head's weights start at zero, so all positions have the same
    any-mask score and the options have the shares `config.initial_mask_options`.
    """

    config_class = NoiserConfig
    base_model_prefix = "noiser"
    main_input_name = "input_ids"

    def __init__(self, config: NoiserConfig):
        super().__init__(config)
        directions = 2 if config.bidirectional else 1
        self.embeddings = nn.Embedding(config.vocab_size, config.embedding_size, padding_idx=config.pad_token_id)
        self.rnn = nn.GRU(
            config.embedding_size,
            config.hidden_size // directions,
            num_layers=config.num_hidden_layers,
            bidirectional=config.bidirectional,
            dropout=config.hidden_dropout_prob if config.num_hidden_layers > 1 else 0.0,
            batch_first=True,
        )
        self.score = nn.Linear(config.hidden_size, 1 + 2 + len(config.replacement_ids))
        self.post_init()

    def _init_weights(self, module: nn.Module) -> None:
        if isinstance(module, nn.Embedding):
            # unit variance, PyTorch's own: with BERT's 0.02 the GRU would hardly see which residue it reads
            init.normal_(module.weight, mean=0.0, std=1.0)
            init.zeros_(module.weight[module.padding_idx])
        elif isinstance(module, nn.GRU):
            bound = 1 / math.sqrt(module.hidden_size)
            for parameter in module.parameters():
                init.uniform_(parameter, -bound, bound)
        elif isinstance(module, nn.Linear):
            init.zeros_(module.weight)
            init.copy_(module.bias, self._initial_bias())

    def _initial_bias(self) -> torch.Tensor:
        mask, keep, replace = self.config.initial_mask_options
        count = len(self.config.replacement_ids)
        return torch.tensor([0.0, math.log(mask), math.log(keep)] + [math.log(replace / count)] * count)

    def forward(self, input_ids: torch.Tensor, attention_mask: torch.Tensor | None = None) -> NoiserOutput:
        """Score every position.

        Args:
            input_ids (`torch.Tensor` of shape `(batch, length)`): The protein as it is, special tokens included,
                padded on the right.
            attention_mask (`torch.Tensor` of shape `(batch, length)`, *optional*): 0 at padding. Padding does not
                change the scores of the other positions. The default takes every position for real.

        Returns:
            [`NoiserOutput`]
        """
        length = input_ids.shape[1]
        embedded = self.embeddings(input_ids)  # (batch, length, embedding)
        if attention_mask is None:
            hidden, _ = self.rnn(embedded)
        else:
            # packed, so that the backward direction starts at the protein's end and not in the padding
            lengths = attention_mask.sum(dim=1).clamp_min(1).cpu()
            packed = pack_padded_sequence(embedded, lengths, batch_first=True, enforce_sorted=False)
            hidden, _ = pad_packed_sequence(self.rnn(packed)[0], batch_first=True, total_length=length)
        scores = self.score(hidden).float()  # (batch, length, 1 + 2 + replacements)
        return NoiserOutput(any_mask_scores=scores[..., 0], option_scores=scores[..., 1:])
