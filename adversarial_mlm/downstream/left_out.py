"""Count the records of a table that are left out, by reason."""

NO_LABEL = "without a label"


class LeftOut:
    """Records that are left out, counted by reason, with the place of the first of each.

    Attributes:
        counts (`dict[str, int]`): By reason, a phrase that completes "3 records ...".
        first (`dict[str, str]`): By reason, where the first one is, such as `"line 12"`.
    """

    def __init__(self) -> None:
        self.counts: dict[str, int] = {}
        self.first: dict[str, str] = {}

    def add(self, reason: str, where: str) -> None:
        """Count one record."""
        self.counts[reason] = self.counts.get(reason, 0) + 1
        self.first.setdefault(reason, where)

    @property
    def total(self) -> int:
        """The number of records that are left out."""
        return sum(self.counts.values())

    def summary(self, records: int) -> str:
        """Return one readable line, such as `3 of 14 records are left out: 2 without a label (first: line 4), ...`.

        Args:
            records (`int`): The number of records among which they were.
        """
        parts = [
            f"{number:,} {reason} ({'first: ' * (number > 1)}{self.first[reason]})"
            for reason, number in self.counts.items()
        ]
        verb = "record is" if records == 1 else "records is" if self.total == 1 else "records are"
        return f"{self.total:,} of {records:,} {verb} left out: {', '.join(parts)}"
