"""Starts a recipe of which one process cannot read what it needs: `fail.py RANK OUTPUT_DIR [--option value ...]`."""

import sys
import time

from accelerate import PartialState

from adversarial_mlm.recipes import run
from adversarial_mlm.recipes.recipe import parse_recipe


def main(rank: int, output_dir: str, options: list[str]) -> int:
    recipe = parse_recipe(["--output_dir", output_dir, "--use_cpu", "true", *options])
    state = PartialState()
    assert state.num_processes == 2
    build = run.build_trainer

    def build_or_not(*args):
        if state.process_index == rank:
            raise run.RecipeError("the Hub does not take the token")
        return build(*args)

    run.build_trainer = build_or_not
    try:
        run.pretrain(recipe)
    except ValueError as error:
        print(f"rank {state.process_index}: {error}", file=sys.stderr, flush=True)
        time.sleep(3)  # so that the launcher does not end the other before it has spoken
        return 2
    return 0


if __name__ == "__main__":
    sys.exit(main(int(sys.argv[1]), sys.argv[2], sys.argv[3:]))
