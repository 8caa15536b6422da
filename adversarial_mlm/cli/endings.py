"""How the commands `train`, `evaluate` and `compare` begin and end, also where a script in `examples/` calls them."""

import logging
import sys


def set_up_logging() -> None:
    """Log plain sentences to stderr, but not the requests to the Hub."""
    logging.basicConfig(level=logging.INFO, format="%(message)s")
    for client in ("httpx", "httpx2"):
        logging.getLogger(client).setLevel(logging.WARNING)


def failed(program: str, sentence: str, status: int) -> int:
    """Print why a program ended; returns the exit status."""
    print(f"{program}: {sentence}", file=sys.stderr)
    return status
