"""The backbones of a noiser: from token embeddings to one vector for each position."""

import torch
from torch import nn
from torch.nn import functional as F
from transformers import ModernBertConfig, ModernBertModel

from adversarial_mlm.models.attention_masks import square_mask
from adversarial_mlm.models.configuration_noiser import NoiserConfig


class ResidueGRU(nn.Module):
    """Layers of GRUs over right-padded rows; the backward direction starts at the end of each protein.

    Instead of packing rows, each row is reversed within its own length. This never waits for the device, and on a CPU
    it takes less than half the time of packed rows.

    With the view `context`, the two directions are separate until the output. The output at position i joins the
    states of both directions before they read residue i, so no score depends on the residue that it scores.

    Args:
        config ([`NoiserConfig`]): Sizes, directions and view.
    """

    def __init__(self, config: NoiserConfig):
        super().__init__()
        directions = 2 if config.bidirectional else 1
        units = config.hidden_size // directions
        self.context_only = config.view == "context"
        deeper = units if self.context_only else config.hidden_size
        widths = [config.embedding_size] + [deeper] * (config.num_hidden_layers - 1)
        self.forwards = nn.ModuleList(nn.GRU(width, units, batch_first=True) for width in widths)
        self.backwards = nn.ModuleList(
            nn.GRU(width, units, batch_first=True) for width in (widths if config.bidirectional else [])
        )
        self.dropout = nn.Dropout(config.hidden_dropout_prob)

    def forward(self, hidden: torch.Tensor, attention_mask: torch.Tensor) -> torch.Tensor:
        """From `(batch, length, embedding)` and the mask `(batch, length)` to `(batch, length, hidden)`."""
        lengths = attention_mask.sum(dim=1, keepdim=True)
        position = torch.arange(hidden.shape[1], device=hidden.device)
        # positions 0 … n-1 become n-1 … 0, padding stays; reversing twice restores the row
        reversal = torch.where(position < lengths, lengths - 1 - position, position)[..., None]
        return self._shifted(hidden, reversal) if self.context_only else self._interleaved(hidden, reversal)

    def _interleaved(self, hidden: torch.Tensor, reversal: torch.Tensor) -> torch.Tensor:
        """Both directions in every layer, as in PyTorch's bidirectional GRU."""
        for layer, ahead in enumerate(self.forwards):
            if layer:
                hidden = self.dropout(hidden)
            outputs = [ahead(hidden)[0]]
            if self.backwards:
                outputs.append(_reverse(self.backwards[layer](_reverse(hidden, reversal))[0], reversal))
            hidden = torch.cat(outputs, dim=-1)
        return hidden

    def _shifted(self, hidden: torch.Tensor, reversal: torch.Tensor) -> torch.Tensor:
        """Each direction through all its layers, shifted by one position."""
        outputs = [_shift(self._stack(self.forwards, hidden))]
        if self.backwards:
            outputs.append(_reverse(_shift(self._stack(self.backwards, _reverse(hidden, reversal))), reversal))
        return torch.cat(outputs, dim=-1)

    def _stack(self, layers: nn.ModuleList, hidden: torch.Tensor) -> torch.Tensor:
        for number, layer in enumerate(layers):
            hidden = layer(self.dropout(hidden) if number else hidden)[0]
        return hidden


def _reverse(hidden: torch.Tensor, reversal: torch.Tensor) -> torch.Tensor:
    return hidden.gather(1, reversal.expand_as(hidden))


def _shift(hidden: torch.Tensor) -> torch.Tensor:
    return F.pad(hidden, (0, 0, 1, 0))[:, :-1]


class DilatedConvolutions(nn.Module):
    """Residual convolutions with a dilation that doubles in every layer; all positions are processed at once.

    Args:
        config ([`NoiserConfig`]): Sizes and kernel size.
    """

    def __init__(self, config: NoiserConfig):
        super().__init__()
        width, kernel = config.hidden_size, config.kernel_size
        self.project = nn.Linear(config.embedding_size, width)
        self.norms = nn.ModuleList(nn.LayerNorm(width) for _ in range(config.num_hidden_layers))
        self.convolutions = nn.ModuleList(
            nn.Conv1d(width, width, kernel, padding=(kernel // 2) * 2**layer, dilation=2**layer)
            for layer in range(config.num_hidden_layers)
        )
        self.final_norm = nn.LayerNorm(width)
        self.dropout = nn.Dropout(config.hidden_dropout_prob)

    def forward(self, hidden: torch.Tensor, attention_mask: torch.Tensor) -> torch.Tensor:
        """From `(batch, length, embedding)` and the mask `(batch, length)` to `(batch, length, hidden)`."""
        real = attention_mask[..., None].to(hidden.dtype)
        hidden = self.project(hidden)
        for norm, convolution in zip(self.norms, self.convolutions, strict=True):
            inner = (norm(hidden) * real).transpose(1, 2)  # zero at padding, as beyond the ends of the row
            hidden = hidden + self.dropout(F.gelu(convolution(inner).transpose(1, 2)))
        return self.final_norm(hidden)


class NoiserTransformer(nn.Module):
    """A ModernBERT of the noiser's size. Its rotary positions set no limit to the length.

    Args:
        config ([`NoiserConfig`]): Sizes and attention heads.
    """

    def __init__(self, config: NoiserConfig):
        super().__init__()
        self.project = nn.Linear(config.embedding_size, config.hidden_size)
        self.transformer = ModernBertModel(
            ModernBertConfig(
                vocab_size=1,  # its token embedding is not used, and removed below
                hidden_size=config.hidden_size,
                intermediate_size=2 * config.hidden_size,
                num_hidden_layers=config.num_hidden_layers,
                num_attention_heads=config.num_attention_heads,
                layer_types=["full_attention"] * config.num_hidden_layers,
                attention_dropout=config.hidden_dropout_prob,
                mlp_dropout=config.hidden_dropout_prob,
                embedding_dropout=config.hidden_dropout_prob,
                pad_token_id=0,
                bos_token_id=0,
                eos_token_id=0,
                cls_token_id=0,
                sep_token_id=0,
            )
        )
        self.transformer.embeddings.add_module("tok_embeddings", nn.Identity())

    def forward(self, hidden: torch.Tensor, attention_mask: torch.Tensor) -> torch.Tensor:
        """From `(batch, length, embedding)` and the mask `(batch, length)` to `(batch, length, hidden)`."""
        hidden = self.project(hidden)
        if self.transformer.config._attn_implementation == "sdpa":  # `eager` attention adds its mask to the scores
            attention_mask = square_mask(attention_mask)
        return self.transformer(inputs_embeds=hidden, attention_mask=attention_mask).last_hidden_state
