"""How the commands `train`, `evaluate` and `compare` begin and end, also where a script in `examples/` calls them."""

import logging
import sys

from adversarial_mlm.utils import interrupts


def set_up_logging() -> None:
    """Log plain sentences to stderr, but neither the requests to the Hub nor what matplotlib does with fonts."""
    logging.basicConfig(level=logging.INFO, format="%(message)s")
    for library in ("httpx", "httpx2", "matplotlib"):
        logging.getLogger(library).setLevel(logging.WARNING)
    logging.getLogger("huggingface_hub").propagate = False  # it prints its warnings itself


def failed(program: str, sentence: str, status: int) -> int:
    """Print why a program ended; returns the exit status."""
    print(f"{program}: {sentence}", file=sys.stderr)
    return status


def stopped(program: str, stop: KeyboardInterrupt, kept: str, when: str = "") -> int:
    """Print that a signal stopped a program, and what it leaves; returns the exit status.

    Args:
        program (`str`): The program's name.
        stop (`KeyboardInterrupt`): What the signal raised, such as an [`Interrupted`].
        kept (`str`): What is kept, or what to do next.
        when (`str`, *optional*): During which work.
    """
    number = interrupts.signal_of(stop)
    sentence = f"stopped by {' '.join(filter(None, (number.name, when)))}; {kept}"
    return failed(program, sentence, interrupts.exit_status(number))
