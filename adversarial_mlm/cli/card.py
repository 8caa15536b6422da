"""Write the model card of a run anew, such as after an update of this package.

The facts come from the run's folder. Results of downstream tasks that are in the card are kept.
"""

import argparse
import os

from adversarial_mlm.utils.home import path_argument

EXAMPLES = (
    "adv-mlm card runs/mine",
    "adv-mlm card runs/*",
    "adv-mlm card runs/mine --overwrite",
)
IF_STOPPED = "each card is either the earlier one or complete"


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Add the options of the command."""
    parser.add_argument("run", nargs="+", type=path_argument, metavar="RUN", help="folder of a run of adv-mlm train")
    parser.add_argument("--overwrite", action="store_true", help="also replace a card that you have changed")


def run(args: argparse.Namespace) -> int:
    """Write the cards, and return the exit status.

    Raises:
        CheckpointError: If a run has no facts that can be read, or if its card was changed.
        WritingError: If a card cannot be written.
    """
    from adversarial_mlm.saving import model_card
    from adversarial_mlm.saving.run_files import CARD_FILE

    for folder in args.run:
        model_card.rewrite(folder, args.overwrite)
        print(f"Card        {os.path.join(folder, CARD_FILE)}")
    return 0
