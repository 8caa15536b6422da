"""Draw what happened in one or several runs: a page for a browser, report.html, and its pictures as PNG files.

A folder of `adv-mlm compare` stands for all of its runs, and adds the comparison's Table 2.
"""

import argparse

from adversarial_mlm.utils.counts import count, verb
from adversarial_mlm.utils.home import path_argument

EXAMPLES = (
    "adv-mlm report runs/mine",
    "adv-mlm report runs/mine runs/baseline --output_dir reports/mine_and_baseline",
    "adv-mlm report runs/compare --output_dir reports/compare",
)
IF_STOPPED = "no file was changed, or all are complete"


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Add the options of the command."""
    parser.add_argument("run", nargs="+", type=path_argument, help="folder of a run or of a comparison")
    parser.add_argument(
        "--output_dir", type=path_argument, help="folder for the report (default: the run's own, if there is only one)"
    )


def run(args: argparse.Namespace) -> int:
    """Write a report, print its path, and return the exit status.

    Raises:
        RecipeError: If a folder is not that of a run.
        MissingPackageError: If matplotlib is not installed.
        WritingError: If a file cannot be written.
    """
    from adversarial_mlm.reports.run_report import write_report

    page, *pictures = write_report(args.run, args.output_dir)
    print(
        f"{page}: open it in a browser; {verb(len(pictures), 'its picture is', 'its pictures are')} "
        f"{count(len(pictures), 'PNG file')} next to it"
    )
    return 0
