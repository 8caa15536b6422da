"""Classes whose fields are options, for tests of how options are read."""

import enum
from dataclasses import dataclass

import pytest

from adversarial_mlm.utils.errors import RecipeError
from adversarial_mlm.utils.options import Source

FILE = Source("x.yaml")


class Colour(enum.StrEnum):
    RED, BLUE, NO = "red", "blue", "no"


@dataclass
class Sizes:
    """What is large.

    Args:
        width (`int`, *optional*, defaults to 3): Of the thing, in `mm`
            or 100 % of it.
        share (`float`, *optional*): Of all.
    """

    width: int = 3
    share: float | None = None

    def __post_init__(self):
        if self.width < 1:
            raise ValueError(f"width must be at least 1, got {self.width}")


def refusal(function, *args, **kwargs) -> str:
    with pytest.raises(RecipeError) as error:
        function(*args, **kwargs)
    return str(error.value)
