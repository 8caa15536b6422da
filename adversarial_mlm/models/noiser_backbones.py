"""What a noiser reads a protein with: from token embeddings to one vector for each position."""

import torch
from torch import nn
from torch.nn import functional as F
from transformers import ModernBertConfig, ModernBertModel

from adversarial_mlm.models.attention_masks import square_mask
from adversarial_mlm.models.configuration_noiser import NoiserConfig


class ResidueGRU(nn.Module):
    """Layers of GRUs over right-padded rows, each direction starting at the protein's own end.

    Rows are turned round within their own length instead of being packed: nothing is read back from the device, and on
    a CPU forward and backward take less than half the time that packed rows take.

    With the view `context` the two directions never meet before the output, and the output at position i joins what
    each of them knows before it has read residue i: no score depends on the residue that is scored.

    Args:
        config ([`NoiserConfig`]): Sizes, directions, view.
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
        """`(batch, length, embedding)` and `(batch, length)` to `(batch, length, hidden)`."""
        lengths = attention_mask.sum(dim=1, keepdim=True)
        position = torch.arange(hidden.shape[1], device=hidden.device)
        # 0 … n-1 becomes n-1 … 0, and padding stays where it is; turning twice gives the row back
        turned = torch.where(position < lengths, lengths - 1 - position, position)[..., None]
        return self._shifted(hidden, turned) if self.context_only else self._interleaved(hidden, turned)

    def _interleaved(self, hidden: torch.Tensor, turned: torch.Tensor) -> torch.Tensor:
        """Both directions in every layer, as PyTorch's bidirectional GRU has them."""
        for layer, ahead in enumerate(self.forwards):
            if layer:
                hidden = self.dropout(hidden)
            outputs = [ahead(hidden)[0]]
            if self.backwards:
                outputs.append(_turn(self.backwards[layer](_turn(hidden, turned))[0], turned))
            hidden = torch.cat(outputs, dim=-1)
        return hidden

    def _shifted(self, hidden: torch.Tensor, turned: torch.Tensor) -> torch.Tensor:
        """Each direction through all its layers, and one position late."""
        outputs = [_one_late(self._stack(self.forwards, hidden))]
        if self.backwards:
            outputs.append(_turn(_one_late(self._stack(self.backwards, _turn(hidden, turned))), turned))
        return torch.cat(outputs, dim=-1)

    def _stack(self, layers: nn.ModuleList, hidden: torch.Tensor) -> torch.Tensor:
        for number, layer in enumerate(layers):
            hidden = layer(self.dropout(hidden) if number else hidden)[0]
        return hidden


def _turn(hidden: torch.Tensor, turned: torch.Tensor) -> torch.Tensor:
    return hidden.gather(1, turned.expand_as(hidden))


def _one_late(hidden: torch.Tensor) -> torch.Tensor:
    return F.pad(hidden, (0, 0, 1, 0))[:, :-1]


class DilatedConvolutions(nn.Module):
    """Residual convolutions whose windows double from layer to layer; all positions at once.

    Args:
        config ([`NoiserConfig`]): Sizes, kernel.
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
        """`(batch, length, embedding)` and `(batch, length)` to `(batch, length, hidden)`."""
        real = attention_mask[..., None].to(hidden.dtype)
        hidden = self.project(hidden)
        for norm, convolution in zip(self.norms, self.convolutions, strict=True):
            inner = (norm(hidden) * real).transpose(1, 2)  # padding reads as the zeros beyond the ends
            hidden = hidden + self.dropout(F.gelu(convolution(inner).transpose(1, 2)))
        return self.final_norm(hidden)


class NoiserTransformer(nn.Module):
    """A ModernBERT of the noiser's size: rotary positions, so that no length is too long.

    Args:
        config ([`NoiserConfig`]): Sizes, heads.
    """

    def __init__(self, config: NoiserConfig):
        super().__init__()
        self.project = nn.Linear(config.embedding_size, config.hidden_size)
        self.transformer = ModernBertModel(
            ModernBertConfig(
                vocab_size=1,  # it is given embeddings; its own table is taken out below
                hidden_size=config.hidden_size,
                intermediate_size=2 * config.hidden_size,
                num_hidden_layers=config.num_hidden_layers,
                num_attention_heads=config.num_attention_heads,
                global_attn_every_n_layers=1,
                attention_dropout=config.hidden_dropout_prob,
                mlp_dropout=config.hidden_dropout_prob,
                embedding_dropout=config.hidden_dropout_prob,
                **dict.fromkeys(("pad_token_id", "bos_token_id", "eos_token_id", "cls_token_id", "sep_token_id"), 0),
            )
        )
        self.transformer.embeddings.tok_embeddings = nn.Identity()

    def forward(self, hidden: torch.Tensor, attention_mask: torch.Tensor) -> torch.Tensor:
        """`(batch, length, embedding)` and `(batch, length)` to `(batch, length, hidden)`."""
        hidden = self.project(hidden)
        if self.transformer.config._attn_implementation == "sdpa":  # written-out attention adds its mask to the scores
            attention_mask = square_mask(attention_mask)
        return self.transformer(inputs_embeds=hidden, attention_mask=attention_mask).last_hidden_state
