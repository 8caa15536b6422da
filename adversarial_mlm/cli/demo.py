"""Open a page to play with: which residues a noiser attacks, random against learned masks, and substitutions.

The page is on this machine only, at 127.0.0.1, and needs no network if --model is a folder.
"""

import argparse
import os
import threading

from adversarial_mlm.utils.errors import CheckpointError, RecipeError
from adversarial_mlm.utils.home import path_argument

EXAMPLES = (
    "adv-mlm demo                                # the model of `adv-mlm train demo`, in runs/demo",
    "adv-mlm demo --model runs/mine --port 8000",
    "adv-mlm demo --model NAME --open            # a model on the Hub; opens a browser",
)
IF_STOPPED = "the page is closed"

_DEFAULT = "runs/demo"
_LARGEST_PORT = 65535


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Add the options of the command."""
    parser.add_argument(
        "--model", default=_DEFAULT, type=path_argument, help="folder or Hub name of a model (default: %(default)s)"
    )
    parser.add_argument("--port", type=int, help="port of the page (default: the first free one from 7860 on)")
    parser.add_argument("--open", action="store_true", help="also open the page in a browser")
    parser.add_argument("--revision", help="branch, tag or commit of a model on the Hub")
    parser.add_argument("--device", help="such as cpu or cuda:1 (default: a GPU if there is one)")


def run(args: argparse.Namespace) -> int:
    """Start the page, print its address, and wait for a signal.

    Raises:
        AdversarialMLMError: If an option or the model cannot be used, or if Gradio is not installed.
    """
    if args.port is not None and not 1 <= args.port <= _LARGEST_PORT:
        raise RecipeError(f"--port must be from 1 to {_LARGEST_PORT}, got {args.port}")
    if os.path.isdir(args.model):
        os.environ["HF_HUB_OFFLINE"] = "1"  # read while the client of the Hub is imported
    elif args.model == _DEFAULT:
        raise RecipeError(
            f"there is no folder {_DEFAULT}: train the demo first, with `adv-mlm train demo`, or give another --model"
        )
    page, address = _serve(args.model, args.revision, args.device, args.port, args.open)
    try:
        print(f"{address}  (stop with Ctrl-C)", flush=True)
        threading.Event().wait()
    finally:
        page.close(verbose=False)
    return 0


def _serve(model: str, revision: str | None, device: str | None, port: int | None, open_browser: bool):
    """Build the page and start it; returns it and its address."""
    from transformers.utils import logging as transformers_logging

    from adversarial_mlm.space.networks import NetworkStore
    from adversarial_mlm.space.page import build_page, check_installed, launch

    check_installed()
    transformers_logging.disable_progress_bar()
    store = NetworkStore(model, revision=revision, device=device)
    try:
        store.load()
    except CheckpointError as error:
        raise CheckpointError(f"--model is {error}") from error
    page = build_page(store)
    return page, launch(page, port=port, open_browser=open_browser)
