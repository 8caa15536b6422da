"""Numbers with their nouns, for messages."""


def count(number: int, noun: str, plural: str | None = None) -> str:
    """Return a number with its noun: `1 update`, `2,000 updates`, `1 entry`.

    Args:
        number (`int`): The number.
        noun (`str`): The noun, and what stands before it, such as `training record`.
        plural (`str`, *optional*): The noun for other numbers than 1; by default with an `s`.
    """
    return f"{number:,} {noun if number == 1 else plural or noun + 's'}"


def verb(number: int, singular: str, plural: str) -> str:
    """Return the form of a verb that fits a number, such as `is` or `are`."""
    return singular if number == 1 else plural
