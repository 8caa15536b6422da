"""Options of a teacher: a second encoder whose predictions weight the residues, or are targets."""

from dataclasses import dataclass, field, fields

from adversarial_mlm.utils.errors import AdversarialMLMError
from adversarial_mlm.utils.ramp import Ramp

LOSS_WEIGHTS = ("uniform", "learnability")
TEACHERS = ("reference", "ema")

_USES = "loss_weights: learnability, soft_targets or noiser_reward: learnability"


@dataclass
class TeacherOptions:
    """Arguments of a teacher, see [`teacher.Teacher`].

    Args:
        loss_weights (`str`, *optional*, defaults to `"uniform"`): Weights of masked residues in the encoder's loss.
            With `"learnability"`, w = (1 − β) + β u / mean u. Here u is the KL divergence from the teacher's
            prediction to the encoder's over the 20 residues. The mean is that of the previous update. u counts at
            most 10 times the mean.
        learnability_share (`float`, *optional*, defaults to 0.5): β, from 0 to 1.
        soft_targets (ramp from 0 to 1, *optional*, defaults to 0): λ of (1 − λ) · cross-entropy with the true residue
            + λ · cross-entropy with the teacher's prediction. A step may be a share of `max_steps`: `0.7@0 0@100%`.
        teacher (`str`, *optional*): `"reference"` (the default if there is a `reference_model`), or `"ema"`, a moving
            average of the encoder.
        reference_model (`str`, *optional*): Folder or Hub name of a masked language model with the same vocabulary.
        teacher_decay (`float`, *optional*, defaults to 0.999): With `teacher: ema`: decay of the moving average per
            update.
    """

    loss_weights: str = field(
        default="uniform",
        metadata={"help": f"Weights of masked residues: {', '.join(LOSS_WEIGHTS)}.", "choices": LOSS_WEIGHTS},
    )
    learnability_share: float = field(
        default=0.5, metadata={"help": "loss_weights learnability: part of a weight that follows learnability."}
    )
    soft_targets: list[str] = field(
        default_factory=lambda: ["0"],
        metadata={
            "help": "Share of the teacher's prediction in the targets, a number or value@step points, such as 0.7@0 "
            "0@100%."
        },
    )
    teacher: str | None = field(
        default=None,
        metadata={"help": "Teacher: reference (of reference_model), or ema, a moving average of the encoder.",
                  "choices": TEACHERS},
    )  # fmt: skip
    reference_model: str | None = field(
        default=None, metadata={"help": "Teacher: folder or Hub name of a masked language model."}
    )
    teacher_decay: float = field(default=0.999, metadata={"help": "teacher ema: decay of the moving average."})

    @property
    def teaches_encoder(self) -> bool:
        """Whether a teacher is used in the encoder's loss in any update."""
        return self.loss_weights != "uniform" or max(self.soft_target_ramp().values) > 0

    @property
    def has_teacher(self) -> bool:
        """Whether a teacher is used in any update."""
        return self.teaches_encoder

    def soft_target_ramp(self, max_steps: int = 1) -> Ramp:
        """The share of soft targets by step, in a run of `max_steps`."""
        return Ramp(self.soft_targets, "soft_targets", max_steps)

    def check_teacher(self) -> None:
        """Check these options.

        Raises:
            AdversarialMLMError: If one is out of range, has no effect, or if a teacher is missing.
        """
        if not isinstance(self.soft_targets, (list, tuple)):  # a plain number, in Python
            self.soft_targets = [str(self.soft_targets)]
        for name, known in (("loss_weights", LOSS_WEIGHTS), ("teacher", (None, *TEACHERS))):
            if getattr(self, name) not in known:
                allowed = ", ".join(filter(None, known))
                raise AdversarialMLMError(f"{name} must be one of {allowed}, got '{getattr(self, name)}'")
        values = self.soft_target_ramp().values
        if not 0 <= min(values) <= max(values) <= 1:
            raise AdversarialMLMError(f"soft_targets must be between 0 and 1, got {' '.join(self.soft_targets)}")
        if not 0 <= self.learnability_share <= 1:
            raise AdversarialMLMError(f"learnability_share must be between 0 and 1, got {self.learnability_share}")
        if not 0 <= self.teacher_decay < 1:
            raise AdversarialMLMError(f"teacher_decay must be at least 0 and below 1, got {self.teacher_decay}")
        self._refuse_without_teacher()
        if not self.has_teacher:
            return
        if self.teacher == "ema" and self.reference_model:
            raise AdversarialMLMError(
                "teacher is ema, but reference_model is also given: set teacher: reference, or remove one"
            )
        if self.teacher != "ema" and not self.reference_model:
            used = "soft_targets" if max(values) > 0 else "noiser_reward: learnability"
            used = "loss_weights: learnability" if self.loss_weights != "uniform" else used
            raise AdversarialMLMError(f"{used} needs a teacher: set reference_model, or teacher: ema")

    def _refuse_without_teacher(self) -> None:
        defaults = {item.name: item.default for item in fields(TeacherOptions)}
        for name, needed, of in (
            ("teacher", self.has_teacher, _USES),
            ("reference_model", self.has_teacher, _USES),
            ("learnability_share", self.loss_weights == "learnability", "loss_weights: learnability"),
            ("teacher_decay", self.teacher == "ema", "teacher: ema"),
        ):
            if getattr(self, name) != defaults[name] and not needed:
                raise AdversarialMLMError(f"{name} only has an effect with {of}: leave it out")
