"""The exceptions of the package, and functions to quote text of others in a message."""

import re
import signal
from collections.abc import Iterable

_BEGINNING = 40  # characters that `shorten` keeps
_HUB_TOKEN = re.compile(r"hf_[A-Za-z0-9]{16,}")
_ADDRESS_WITH_QUERY = re.compile(r"(https?://[^\s?]*)\?\S*")


class AdversarialMLMError(ValueError):
    """Base of all errors that this package raises for a reason that a user can act on.

    The message is one sentence. It names the option or file, its value, and what is allowed.

    Attributes:
        told_elsewhere (`bool`): Whether an earlier process of the run ends with the same message, and prints it.
    """

    told_elsewhere = False


class CorpusError(AdversarialMLMError):
    """Proteins or labels that cannot be read or used as asked; the message names the file, column or option."""

    def __init__(self, message: str):
        # torch raises the error of a `DataLoader` worker again, with the worker's traceback as its message
        if message.startswith(f"Caught {type(self).__name__} in "):
            message = message.splitlines()[-1].partition(": ")[2]
        super().__init__(" ".join(message.splitlines()))


class RecipeError(AdversarialMLMError):
    """A recipe, comparison or command line that cannot be run as written."""


class CheckpointError(AdversarialMLMError):
    """A model or checkpoint that cannot be loaded or resumed; the message names it."""


class DivergenceError(AdversarialMLMError):
    """Fine-tuning reached a loss or a prediction that is not finite."""


class NonFiniteError(AdversarialMLMError, RuntimeError):
    """Pre-training was stopped because too many updates in a row had a loss or gradient that is not finite."""


class WritingError(AdversarialMLMError, RuntimeError):
    """A file could not be written; the message names the folder and the reason."""


class PushError(AdversarialMLMError, RuntimeError):
    """A push to the Hub failed."""


class MissingPackageError(AdversarialMLMError, ImportError):
    """A package of an extra is not installed; the message says what needs it and how to install it."""


class Interrupted(KeyboardInterrupt):
    """SIGTERM or SIGINT arrived outside of a training loop.

    This is a request to stop, not an error. It is not an [`AdversarialMLMError`], because then `except ValueError` and
    `except Exception` would catch it, and the program would continue.

    Args:
        number (`int`): The signal's number.

    Attributes:
        signal (`signal.Signals`): The signal.
    """

    def __init__(self, number: int):
        self.signal = signal.Signals(number)
        super().__init__(self.signal.name)


def one_line(error: BaseException) -> str:
    """Return the message of an error without line breaks and final full stop, to use it inside a sentence."""
    return " ".join(filter(None, map(str.strip, str(error).splitlines()))).rstrip(".") or type(error).__name__


def clip(text: str, longest: int) -> str:
    """Return a text, cut after `longest` characters; dots show the cut."""
    return text if len(text) <= longest else text[:longest] + "..."


def shorten(text: str) -> str:
    """Return the beginning of a text from a file or a user, quoted and in ASCII, without the line end."""
    return ascii(clip(text.strip("\r\n"), _BEGINNING))


def redact(text: str, secrets: Iterable[str | None] = ()) -> str:
    """Hide what a message or a log must not contain.

    Args:
        text (`str`): A text, such as a message from a library.
        secrets (`Iterable[str]`, *optional*): Texts to hide, wherever they occur; `None` and empty texts are skipped.

    Returns:
        `str`: The text with dots in place of the secrets, of tokens of the HuggingFace Hub, and of the queries of web
        addresses, which may be signatures.
    """
    for secret in secrets:
        if secret:
            text = text.replace(secret, "...")
    text = _HUB_TOKEN.sub("hf_...", text)
    return _ADDRESS_WITH_QUERY.sub(r"\1?...", text)
