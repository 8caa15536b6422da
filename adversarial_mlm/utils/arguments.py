"""Checks of arguments that users give in Python, where a command line would have checked them."""

import numbers

from adversarial_mlm.utils.errors import AdversarialMLMError


def class_of(value: object) -> str:
    """Return the class of a value for a message; a value that is a class itself is called so."""
    return f"the class {value.__name__}" if isinstance(value, type) else type(value).__name__


def check_class(name: str, value: object, wanted: type, hint: str = "") -> None:
    """Check the class of an argument.

    Args:
        name (`str`): Name of the argument.
        value (`object`): Its value.
        wanted (`type`): Class that it must have.
        hint (`str`, *optional*): End of the message.

    Raises:
        AdversarialMLMError: If it has another class.
    """
    if not isinstance(value, wanted):
        raise AdversarialMLMError(f"{name} must be of the class {wanted.__name__}, got {class_of(value)}{hint}")


def check_number(name: str, value: object, whole: bool = False) -> None:
    """Check that an argument is a number.

    Args:
        name (`str`): Name of the argument.
        value (`object`): Its value.
        whole (`bool`, *optional*, defaults to `False`): Whether it must be a whole number.

    Raises:
        AdversarialMLMError: If it is none.
    """
    if isinstance(value, bool) or not isinstance(value, numbers.Integral if whole else numbers.Real):
        raise AdversarialMLMError(f"{name} must be a {'whole ' if whole else ''}number, got {value!r}")
