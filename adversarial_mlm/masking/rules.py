"""The options of masking, and the numbers of masked residues that follow for a protein."""

import dataclasses
import functools
from collections.abc import Iterable, Sequence
from dataclasses import dataclass

import torch

from adversarial_mlm.masking.keyed_random import ROW_RATE, uniform
from adversarial_mlm.masking.mask_rate import MaskRate
from adversarial_mlm.masking.positions import POSITIONS, SPAN_LENGTH
from adversarial_mlm.masking.sampling import (
    LEAST_TEMPERATURE,
    ORDERED_TEMPERATURE,
    PARTS,
    SAMPLERS,
    budget_of_parts,
    exact_budget,
    parts_of,
)
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
        rate_schedule (`Sequence[str]`, *optional*): The option `mask_rate`, see [`mask_rate.MaskRate`]: points that
            replace the sum of both rates. The rates keep their proportion. [`at`] gives the rules of an update.
        rate_curve (`str`, *optional*, defaults to `"linear"`): The option `mask_rate_curve`: how points are joined.
        lowest_rate (`float`, *optional*): Draw the mask rate of each protein uniformly between this and the sum of
            both rates. [`at`] sets it.
        positions (`str`, *optional*, defaults to `"random"`): How the positions of random masks are chosen:
            `"random"`, `"span"`, `"stratified"` or `"weighted"`, see [`positions`]. Only `"random"` goes with a
            noiser.
        span_length (`float`, *optional*): With `positions="span"`: mean length of the spans; 3 by default.
        protein_share (`float`, *optional*): Share of the proteins of an update that are trained on, if a noiser
            chooses them (`masking: chosen_proteins`).

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
    rate_schedule: Sequence[str] = ()
    rate_curve: str = "linear"
    lowest_rate: float | None = None
    positions: str = "random"
    span_length: float | None = None
    protein_share: float | None = None

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
        for name, known in (("sampler", SAMPLERS), ("selection", SELECTIONS), ("positions", POSITIONS)):
            if getattr(self, name) not in known:
                raise ValueError(f"{name} must be one of {', '.join(known)}, got '{getattr(self, name)}'")
        self._check_relaxation()
        self._check_schedule()
        self._check_candidates()
        self._check_positions()

    def _check_positions(self) -> None:
        if self.positions != "random" and self.adversarial_rate:
            raise AdversarialMLMError(
                f"masking: {self.positions} chooses all positions, so adversarial_rate must be 0"
            )
        if self.span_length is not None:
            check_number("span_length", self.span_length)
            if self.positions != "span":
                raise AdversarialMLMError(
                    f"span_length is {self.span_length:g}, but only applies to masking: span: remove it"
                )
            if not 1 <= self.span_length < float("inf"):
                raise AdversarialMLMError(f"span_length must be at least 1, got {self.span_length:g}")
        if self.positions == "stratified" and self.schedule is not None:
            one = self.schedule.lowest == self.schedule.highest
            if not one:
                raise AdversarialMLMError(
                    "masking: stratified shares out the residues of a protein over passes of equal size, so mask_rate "
                    f"must be one rate, got {' '.join(self.rate_schedule)}"
                )

    @property
    def mean_span_length(self) -> float:
        """`span_length`, or its default."""
        return SPAN_LENGTH if self.span_length is None else self.span_length

    def _check_schedule(self) -> None:
        given = self.rate_schedule
        words = (given,) if isinstance(given, str) else given if isinstance(given, Iterable) else (str(given),)
        object.__setattr__(self, "rate_schedule", tuple(words))
        if self.schedule is None and self.rate_curve != "linear":
            raise AdversarialMLMError(
                f"mask_rate_curve is {self.rate_curve}, but mask_rate is not given: leave it out, or set mask_rate"
            )

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
        highest = self.mask_rate if self.schedule is None else self.schedule.highest
        if not highest - _TOLERANCE <= self.candidate_rate <= 1:
            raise ValueError(
                f"candidate_rate must be between the mask rate, {highest:g}, and 1, got {self.candidate_rate}"
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

    @functools.cached_property
    def schedule(self) -> MaskRate | None:
        """The mask rate during the run; `None` if it is always the sum of both rates."""
        return MaskRate(self.rate_schedule, self.rate_curve) if self.rate_schedule else None

    def at(self, step: int | None = None, max_steps: int = 1) -> "MaskingRules":
        """Return the rules of an update, without a schedule.

        Args:
            step (`int`, *optional*): Number of the encoder's update, from 0. It may be left out if `rate_schedule`
                does not change.
            max_steps (`int`, *optional*, defaults to 1): Encoder updates of the run.

        Raises:
            AdversarialMLMError: If the rate changes and there is no step.
        """
        if self.schedule is None:
            return self
        if step is None and self.schedule.changes:
            raise AdversarialMLMError(
                "mask_rate changes during the run, but the update is not known here: use AdversarialMLMTrainer, or "
                "pass rules=collator.rules.at(step, max_steps)"
            )
        return self.with_mask_rate(*self.schedule.at(step or 0, max_steps))

    def with_mask_rate(self, lowest: float, highest: float) -> "MaskingRules":
        """Return the rules with a mask rate that is drawn for each protein, without a schedule.

        Args:
            lowest (`float`): The lowest rate of a protein.
            highest (`float`): The highest rate; all proteins have this one if both are equal.
        """
        adversarial = highest * (self.adversarial_rate / self.mask_rate if self.mask_rate else 0.0)
        return dataclasses.replace(
            self,
            adversarial_rate=adversarial,
            random_rate=highest - adversarial,
            rate_schedule=(),
            rate_curve="linear",
            lowest_rate=None if lowest == highest else lowest,
        )

    def without_schedule(self) -> "MaskingRules":
        """Return the rules with the sum of both rates in place of a schedule."""
        return dataclasses.replace(self, rate_schedule=(), rate_curve="linear")

    def with_adversarial_share(self, share: float) -> "MaskingRules":
        """Return the rules with `share` (0 to 1) of the adversarial rate. The rest becomes random masks."""
        if share == 1:
            return self
        adversarial = share * self.adversarial_rate
        return dataclasses.replace(self, adversarial_rate=adversarial, random_rate=self.mask_rate - adversarial)

    def budgets(
        self, num_residues: torch.Tensor, keys: torch.Tensor | None = None
    ) -> tuple[torch.Tensor, torch.Tensor]:
        """Return the exact numbers of adversarial and of random masks of each row.

        Their sum is the rounded sum of the rates. A run without a noiser whose `random_rate` is this sum therefore
        masks the same number of residues in every protein.

        Args:
            num_residues (`torch.Tensor` of shape `(batch,)`, int64): Number of residues that may be masked.
            keys (`torch.Tensor` of shape `(batch,)`, int64, *optional*): Keys of the rows' noise, from which the rates
                of the rows are drawn. Not needed if all rows have the same rate.

        Returns:
            Two `torch.Tensor` of shape `(batch,)`, int64.
        """
        total = self.total_budget(num_residues, keys)
        adversarial = budget_of_parts(num_residues, self._of_row(self.adversarial_rate, keys))
        adversarial = torch.minimum(adversarial, total)
        return adversarial, total - adversarial

    def total_budget(self, num_residues: torch.Tensor, keys: torch.Tensor | None = None) -> torch.Tensor:
        """Return the number of masked residues of each row, as [`budgets`] does: `(batch,)`, int64."""
        return budget_of_parts(num_residues, self._of_row(self.mask_rate, keys))

    def candidate_budget(self, num_residues: torch.Tensor, keys: torch.Tensor | None = None) -> torch.Tensor:
        """Return the size of the candidate set of each row, see [`budgets`]: `(batch,)`, int64."""
        if self.candidate_rate is not None:  # the same for all rows
            candidates = exact_budget(num_residues, self.candidate_rate)
        else:
            rate = self.random_rate + 2 * self.adversarial_rate
            rate = min(rate, 1.0) if self.lowest_rate is None else rate  # otherwise the part of each row is limited
            candidates = budget_of_parts(num_residues, self._of_row(rate, keys))
        return torch.maximum(candidates, self.total_budget(num_residues, keys))

    def _of_row(self, rate: float, keys: torch.Tensor | None) -> int | torch.Tensor:
        """Return a rate in millionths, for each row in proportion to the mask rate that is drawn for it."""
        if self.lowest_rate is None:
            return parts_of(rate)
        if keys is None:
            raise ValueError("the mask rate is drawn for each protein, which needs the keys of the rows")
        highest, lowest = parts_of(self.mask_rate), parts_of(self.lowest_rate)
        # float64 holds this product exactly, so all devices draw the same number
        drawn = lowest + (uniform(keys, ROW_RATE, 1)[:, 0].double() * (highest - lowest + 1)).long()
        return (drawn * parts_of(rate) // highest).clamp_max(PARTS)
