"""Starts recipes that fail on one process or on both, and then one that trains.

fail.py OUTPUT_DIR --train_data FILE [--option value ...]
"""

import sys

from accelerate import PartialState

from adversarial_mlm.recipes import run
from adversarial_mlm.recipes.recipe import parse_recipe


def attempt(name: str, output_dir: str, options: list[str], fails_on: int | None = None) -> None:
    """Start a run that cannot build its trainer on one process; each process prints how its run ended."""
    state = PartialState()
    recipe = parse_recipe(["--output_dir", f"{output_dir}-{name}", "--use_cpu", "true", *options])
    build = run.build_trainer

    def build_or_fail(*args):
        if state.process_index == fails_on:
            raise run.RecipeError("the Hub does not take the token")
        return build(*args)

    run.build_trainer = build_or_fail
    try:
        trainer = run.pretrain(recipe)
        print(f"{name}, rank {state.process_index}: trained {trainer.state.global_step}", file=sys.stderr, flush=True)
    except ValueError as error:
        print(f"{name}, rank {state.process_index}: {error}", file=sys.stderr, flush=True)
    finally:
        run.build_trainer = build


if __name__ == "__main__":
    assert PartialState(cpu=True).num_processes == 2
    folder, *words = sys.argv[1:]
    attempt("first", folder, words, fails_on=0)
    attempt("second", folder, words, fails_on=1)
    attempt("both", folder, [*words, "--train_data", "nowhere.fasta"])
    attempt("neither", folder, words)
    PartialState().wait_for_everyone()  # the launcher ends the other process when one has ended
    PartialState().destroy_process_group()
    sys.exit(2)
