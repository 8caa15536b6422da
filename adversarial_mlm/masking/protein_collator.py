"""The collator of `masking: chosen_proteins`: random masks, and a noiser that chooses the proteins of an update."""

from collections.abc import Callable, Mapping, Sequence
from typing import Any

import torch
from transformers import PreTrainedTokenizerBase

from adversarial_mlm.masking.corruption import NoiserChoice
from adversarial_mlm.masking.data_collator import DataCollatorForRandomMLM
from adversarial_mlm.masking.protein_choice import PROTEIN_SHARE
from adversarial_mlm.masking.rules import MaskingRules
from adversarial_mlm.models.modeling_noiser import NoiserModel
from adversarial_mlm.utils.arguments import check_class, check_number
from adversarial_mlm.utils.errors import AdversarialMLMError


class DataCollatorForChosenProteinsMLM(DataCollatorForRandomMLM):
    """Random masks, in proteins that a noiser chooses. The collator owns the noiser.

    The noiser reads every protein of an update with [MASK] at all residues that are masked, also at those that the
    encoder will see kept or replaced. It predicts how much the encoder can learn from them: r = exp(mean any-mask
    score of the masked residues). [`AdversarialMLMTrainer`] trains on a share of the proteins, chosen in proportion to
    r, see [`protein_choice`]. The choice depends on residues that the encoder sees, so it reveals no masked one.

    Args:
        tokenizer (`PreTrainedTokenizerBase`): The encoder's tokenizer.
        noiser ([`NoiserModel`]): A noiser for this tokenizer, with the view `blind`.
        max_length (`int`, *optional*, defaults to 512), random_rate (`float`, *optional*, defaults to 0.2),
            mask_options (`Sequence[float]`, *optional*), pad_to_multiple_of (`int`, *optional*), seed (`int`,
            *optional*), mask_rate (`str` or `Sequence[str]`, *optional*), mask_rate_curve (`str`, *optional*): As for
            [`DataCollatorForRandomMLM`].
        protein_share (`float`, *optional*, defaults to 0.5): Share of the proteins that an update reads which are
            trained on.

    Raises:
        ValueError: If a rate or share is out of range, or if the noiser belongs to another tokenizer or has another
            view.
    """

    noiser: NoiserModel

    def __init__(
        self,
        tokenizer: PreTrainedTokenizerBase,
        noiser: NoiserModel,
        max_length: int = 512,
        random_rate: float = 0.2,
        mask_options: Sequence[float] = (0.8, 0.1, 0.1),
        pad_to_multiple_of: int | None = None,
        seed: int = 0,
        mask_rate: str | Sequence[str] = (),
        mask_rate_curve: str = "linear",
        protein_share: float = PROTEIN_SHARE,
    ):
        check_class("noiser", noiser, NoiserModel)
        if noiser.config.view != "blind":
            raise AdversarialMLMError(
                "masking: chosen_proteins needs noiser_view: blind, but the noiser's view is "
                f"{noiser.config.view}: with another, the choice of a protein would tell about its masked residues"
            )
        check_number("protein_share", protein_share)
        if not 0 < protein_share < 1:
            raise AdversarialMLMError(
                f"protein_share must be above 0 and below 1, got {protein_share:g}; to train on all proteins, use "
                "masking: random"
            )
        schedule: dict[str, Any] = {"rate_schedule": mask_rate, "rate_curve": mask_rate_curve}
        rules = MaskingRules(random_rate, mask_options, protein_share=float(protein_share), **schedule)
        self._set_up(tokenizer, rules, max_length, pad_to_multiple_of, seed)
        noiser.config.check_vocabulary(self.vocabulary)
        self.noiser = noiser

    def predict(
        self,
        batch: Mapping[str, torch.Tensor],
        masked: torch.Tensor,
        noiser: Callable[..., Any] | None = None,
    ) -> NoiserChoice:
        """Have the noiser read a batch without its masked residues; see [`NoiserChoice.log_learnable`].

        Args:
            batch (`Mapping[str, torch.Tensor]`): Result of calling the collator, on the noiser's device.
            masked (`torch.Tensor` of shape `(batch, length)`, bool): Residues that are masked in any way.
            noiser (`Callable`, *optional*): Called instead of the collator's noiser.
        """
        seen = torch.where(masked, self.vocabulary.mask_token_id, batch["input_ids"])
        scores = (self.noiser if noiser is None else noiser)(input_ids=seen, attention_mask=batch["attention_mask"])
        number = masked.sum(dim=1)
        return NoiserChoice(scores, masked, torch.stack([torch.zeros_like(number), number, number]), self.rules)
