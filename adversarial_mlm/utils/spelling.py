"""Hints at the name that a user may have meant."""

import difflib
from collections.abc import Iterable, Mapping

_LEAST_SIMILARITY, _LEAST_SIMILARITY_OF_WORDS, _CLEAR_SIMILARITY = 0.7, 0.6, 0.88
_MOST_NAMES_LISTED = 25


def nearest(name: str, known: Iterable[str]) -> str | None:
    """Return the known name that is most similar to a name; `None` if no name is similar.

    Unless names are nearly equal, each word of the first, between underscores, must also be similar to a word of the
    second: `unk_token` is not `hub_token`.
    """
    plain = {item.lower(): item for item in known}
    name = name.lower().replace("-", "_")
    for near in difflib.get_close_matches(name, list(plain), n=5, cutoff=_LEAST_SIMILARITY):
        if _similarity(name, near) >= _CLEAR_SIMILARITY or all(
            any(_similarity(word, other) >= _LEAST_SIMILARITY_OF_WORDS for other in near.split("_"))
            for word in name.split("_")
        ):
            return plain[near]
    swapped = [item for item in plain if sorted(item) == sorted(name)]  # letters in another order, as in `rde`
    return plain[swapped[0]] if swapped else None


def _similarity(one: str, other: str) -> float:
    return difflib.SequenceMatcher(None, one, other).ratio()


def did_you_mean(name: str, known: Iterable[str], other_names: Mapping[str, str] | None = None) -> str:
    """Return the end of a sentence about an unknown name: the most similar known name, or all if they are few.

    Args:
        name (`str`): The unknown name.
        known (`Iterable[str]`): The known ones.
        other_names (`Mapping[str, str]`, *optional*): Known names by what they are called elsewhere. A value that is
            not a known name is a sentence, which is returned as it is.
    """
    known = list(known)
    other = (other_names or {}).get(name.lower().replace("-", "_"))
    if other is not None and other not in known:
        return f"; {other}"
    near = other or nearest(name, known)
    if near is not None:
        return f"; did you mean '{near}'?"
    return f"; there are {', '.join(known)}" if 0 < len(known) <= _MOST_NAMES_LISTED else ""
