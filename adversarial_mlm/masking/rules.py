"""The options of masking, and the numbers of masked residues that follow for a protein."""

import dataclasses
from collections.abc import Iterable, Sequence
from dataclasses import dataclass

import torch

from adversarial_mlm.masking.sampling import LEAST_TEMPERATURE, ORDERED_TEMPERATURE, SAMPLERS, exact_budget
from adversarial_mlm.utils.arguments import check_number
from adversarial_mlm.utils.errors import AdversarialMLMError

# whether each selection masks exactly the budget of every row
SELECTIONS = {"topk": True, "threshold": False}

_TOLERANCE = 1e-6  # rates count in millionths, and sums of rates have rounding errors


@dataclass(frozen=True)
class MaskingRules:
    """The number of masks, who chooses their positions, and the corruption mix.

    Args:
        random_rate (`float`): Share of the residues masked at random.
        mask_options (`tuple[float, float, float]`, *optional*, defaults to `(0.8, 0.1, 0.1)`): Corruption mix of the
            random masks: shares of [MASK], keep and replace. A replacement is drawn from the standard residues.
        adversarial_rate (`float`, *optional*, defaults to 0.0): Share of the residues masked by the noiser.
        learned_options (`bool`, *optional*, defaults to `True`): Whether the noiser also chooses how to mask. With
            `False` it only uses [MASK] (Algorithm 3 with `p_mask_type = None`).
        sampler (`str`, *optional*, defaults to `"rss"`): `"rss"` (Algorithm 1), or the closed forms `"gumbel_topk"`
            and `"logistic_topk"`; see [`sampling`].
        selection (`str`, *optional*, defaults to `"topk"`): `"topk"` masks exactly the budget; `"threshold"` masks
            positions where `rss` exceeds 0.5, as printed in Algorithm 3.
        gated (`bool`, *optional*, defaults to `True`): Whether `rss` stops at the budget of each row.
        temperature (`float`, *optional*, defaults to 1.0): Temperature of `rss` (which needs at least 0.1) and of the
            relaxed options. Below 0.3 the largest values of `rss` may not be those of score + noise.
        blind (`bool`, *optional*, defaults to `False`): Whether the noiser chooses among a candidate set that is
            hidden from it ("propose, then choose").
        candidate_rate (`float`, *optional*): With `blind`, share of the residues in the candidate set; defaults to
            `random_rate + 2 * adversarial_rate`.

    Raises:
        ValueError: If a rate, share or name is out of range, or if two options contradict each other.
    """

    random_rate: float
    mask_options: Sequence[float] = (0.8, 0.1, 0.1)
    adversarial_rate: float = 0.0
    learned_options: bool = True
    sampler: str = "rss"
    selection: str = "topk"
    gated: bool = True
    temperature: float = 1.0
    blind: bool = False
    candidate_rate: float | None = None

    def __post_init__(self):
        for name in ("random_rate", "adversarial_rate", "temperature", "candidate_rate"):
            if name != "candidate_rate" or self.candidate_rate is not None:
                check_number(name, getattr(self, name))
        if not isinstance(self.mask_options, Iterable):
            raise AdversarialMLMError(f"mask_options must be three shares that sum to 1, got {self.mask_options!r}")
        object.__setattr__(self, "mask_options", tuple(self.mask_options))
        for share in self.mask_options:
            check_number("a share of mask_options", share)
        shares = self.mask_options
        if len(shares) != 3 or min(shares) < 0 or abs(sum(shares) - 1) > _TOLERANCE:
            raise ValueError(f"mask_options must be three shares that sum to 1, got {list(shares)}")
        if not 0 <= self.random_rate <= 1 + _TOLERANCE:
            raise ValueError(f"random_rate must be between 0 and 1, got {self.random_rate}")
        if not 0 <= self.adversarial_rate <= 1 - self.random_rate + _TOLERANCE:
            raise ValueError(
                "adversarial_rate must be at least 0, and adversarial_rate + random_rate at most 1, got "
                f"{self.adversarial_rate} and {self.random_rate}"
            )
        if self.temperature <= 0:
            raise ValueError(f"temperature must be above 0, got {self.temperature}")
        for name, known in (("sampler", SAMPLERS), ("selection", SELECTIONS)):
            if getattr(self, name) not in known:
                raise ValueError(f"{name} must be one of {', '.join(known)}, got '{getattr(self, name)}'")
        self._check_relaxation()
        self._check_candidates()

    def _check_relaxation(self) -> None:
        if self.has_relaxation:
            if self.temperature < LEAST_TEMPERATURE:
                raise ValueError(
                    f"temperature must be at least {LEAST_TEMPERATURE} with sampler: {self.sampler}, "
                    f"got {self.temperature}"
                )
        elif not self.spends_budget or not self.gated:
            option = f"selection: {self.selection}" if not self.spends_budget else "gated: false"
            relaxed = ", ".join(name for name, sampler in SAMPLERS.items() if sampler.relaxation is not None)
            raise ValueError(f"{option} is given, but sampler is {self.sampler}: use sampler: {relaxed}")

    def _check_candidates(self) -> None:
        if self.candidate_rate is None:
            return
        if not self.blind:
            raise ValueError("candidate_rate is given, but only applies to noiser_view: blind: remove it")
        if not self.mask_rate - _TOLERANCE <= self.candidate_rate <= 1:
            raise ValueError(
                f"candidate_rate must be between the mask rate, {self.mask_rate:g}, and 1, got {self.candidate_rate}"
            )

    @property
    def has_relaxation(self) -> bool:
        """Whether the sampler has a relaxation of the whole draw, such as Algorithm 1, instead of a closed form."""
        return SAMPLERS[self.sampler].relaxation is not None

    @property
    def keeps_order(self) -> bool:
        """Whether the largest relaxed values are those of score + noise, see [`sampling.rss`]."""
        return not self.has_relaxation or self.temperature >= ORDERED_TEMPERATURE

    @property
    def spends_budget(self) -> bool:
        """Whether every row gets exactly its budget of adversarial masks; `selection: threshold` may use fewer."""
        return SELECTIONS[self.selection]

    @property
    def mask_rate(self) -> float:
        """Share of the residues that are masked, in any way."""
        return self.adversarial_rate + self.random_rate

    def with_adversarial_share(self, share: float) -> "MaskingRules":
        """Return the rules with `share` (0 to 1) of the adversarial rate. The rest becomes random masks."""
        if share == 1:
            return self
        adversarial = share * self.adversarial_rate
        return dataclasses.replace(self, adversarial_rate=adversarial, random_rate=self.mask_rate - adversarial)

    def budgets(self, num_residues: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
        """Return the exact numbers of adversarial and of random masks of each row.

        Their sum is the rounded sum of the rates. A run without a noiser whose `random_rate` is this sum therefore
        masks the same number of residues in every protein.

        Args:
            num_residues (`torch.Tensor` of shape `(batch,)`, int64): Number of residues that may be masked.

        Returns:
            Two `torch.Tensor` of shape `(batch,)`, int64.
        """
        total = exact_budget(num_residues, self.mask_rate)
        adversarial = torch.minimum(exact_budget(num_residues, self.adversarial_rate), total)
        return adversarial, total - adversarial

    def candidate_budget(self, num_residues: torch.Tensor) -> torch.Tensor:
        """Return the size of the candidate set of each row: `(batch,)`, int64."""
        rate = self.candidate_rate
        if rate is None:
            rate = min(self.random_rate + 2 * self.adversarial_rate, 1.0)
        return torch.maximum(exact_budget(num_residues, rate), exact_budget(num_residues, self.mask_rate))
