"""Attention maps of a protein as numbers of its pairs of residues: symmetric, and corrected by the average product."""

import numpy as np
import torch
from transformers import PreTrainedModel, PreTrainedTokenizerBase

from adversarial_mlm.inference.frozen_encoder import FrozenEncoder
from adversarial_mlm.utils.errors import RecipeError, one_line


def average_product_correction(maps: torch.Tensor) -> torch.Tensor:
    """Subtract from each entry the product of the sums of its row and column, divided by the sum of all.

    Source: Dunn, Wahl and Gloor (2008), Bioinformatics 24(3), equation 3, for sums in place of means.

    Args:
        maps (`torch.Tensor` of shape `(..., length, length)`): Maps. One whose entries sum to 0 stays as it is.

    Returns:
        `torch.Tensor` of the same shape.
    """
    rows, columns = maps.sum(dim=-1, keepdim=True), maps.sum(dim=-2, keepdim=True)
    total = rows.sum(dim=-2, keepdim=True)
    return maps - torch.where(total == 0, 0, rows * columns / torch.where(total == 0, 1, total))


class AttentionReader:
    """Reads the attention maps of one protein at a time.

    The encoder is set to `attn_implementation="eager"`, because the faster ones do not return attention maps.

    Args:
        model (`PreTrainedModel`): An encoder without a head, in evaluation mode, on its device. It keeps the
            implementation afterwards.
        tokenizer (`PreTrainedTokenizerBase`): The encoder's tokenizer.
        max_length (`int`, *optional*): Largest number of tokens in a protein with its special tokens; by default that
            of [`default_max_length`][adversarial_mlm.inference.frozen_encoder.default_max_length].

    Raises:
        RecipeError: If the encoder has no eager attention, or if an option is out of range.
    """

    def __init__(self, model: PreTrainedModel, tokenizer: PreTrainedTokenizerBase, max_length: int | None = None):
        try:
            model.set_attn_implementation("eager")
        except (ValueError, AttributeError) as error:
            raise RecipeError(
                f"a {type(model).__name__} has no attention maps to read ({one_line(error)}): use another encoder"
            ) from error
        self.model, self.tokenizer = model, tokenizer
        self.encoder = FrozenEncoder(model, tokenizer, max_length=max_length)

    def of(self, model: PreTrainedModel) -> "AttentionReader":
        """Return a reader of another encoder with the same tokenizer and length."""
        return AttentionReader(model, self.tokenizer, self.encoder.max_length)

    @property
    def max_residues(self) -> int:
        """Residues in the longest protein that can be read."""
        return self.encoder.max_residues

    def pair_features(self, sequence: str, least_separation: int) -> np.ndarray:
        """Return the maps of all heads at the pairs of residues.

        The rows and columns of special tokens are removed. A map A becomes A + Aᵀ and then goes through
        [`average_product_correction`], as in Rao et al. (2021), "Transformer protein language models are unsupervised
        structure learners". In memory are the maps of all heads (layers × heads × length² numbers), once.

        Args:
            sequence (`str`): The protein, of residues only.
            least_separation (`int`): Least distance in the sequence of the residues of a pair.

        Returns:
            `np.ndarray` of shape `(layers * heads, pairs)`, float32; the pairs are in the order of
            `np.triu_indices(length, least_separation)`.

        Raises:
            RecipeError: If the protein is too long, if the encoder returns no attention maps, if they are not finite,
                or if the device has too little memory.
        """
        length = len(sequence)
        if length > self.max_residues:
            raise RecipeError(
                f"a protein has {length:,} residues, but max_length is {self.encoder.max_length:,}, which is "
                f"{self.max_residues:,} residues"
            )
        batch = self.encoder.collator([{"sequence": sequence}])
        first = int(batch.pop("residue_mask")[0].int().argmax())
        batch = {name: tensor.to(self.model.device) for name, tensor in batch.items()}
        try:
            with torch.no_grad():
                layers = self.model(**batch, output_attentions=True).attentions
            return self._at_pairs(layers, slice(first, first + length), np.triu_indices(length, least_separation))
        except torch.OutOfMemoryError as error:
            raise RecipeError(
                f"the {self.model.device} has too little memory for the attention maps of a protein of {length:,} "
                "residues: use a smaller max_length, or use_cpu"
            ) from error

    def _at_pairs(
        self, layers: tuple[torch.Tensor, ...] | None, residues: slice, pairs: tuple[np.ndarray, np.ndarray]
    ) -> np.ndarray:
        if not layers or any(maps is None for maps in layers):
            raise RecipeError(f"a {type(self.model).__name__} returns no attention maps: use another encoder")
        heads = layers[0].shape[1]
        found = np.empty((len(layers) * heads, len(pairs[0])), dtype=np.float32)
        for number, maps in enumerate(layers):
            of_residues = maps[0, :, residues, residues].float()
            corrected = average_product_correction(of_residues + of_residues.transpose(-1, -2)).cpu().numpy()
            found[number * heads : (number + 1) * heads] = corrected[:, pairs[0], pairs[1]]
        if not np.isfinite(found).all():
            raise RecipeError("the encoder's attention is not finite: its weights may be damaged")
        return found
