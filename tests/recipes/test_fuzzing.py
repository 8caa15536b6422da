"""Any option at any value, and output folders with any content.

In the test suite, a few examples of each. `make fuzz` tries FUZZ_EXAMPLES of each, and FUZZ_SEED repeats a run.
"""

import contextlib
import dataclasses
import json
import math
import os
import shutil
import types
from pathlib import Path
from typing import Any

import pytest
import yaml
from hypothesis import HealthCheck, Phase, given, seed, settings
from hypothesis import strategies as st

from adversarial_mlm.recipes.output_dir import check_output_dir
from adversarial_mlm.recipes.recipe import OPTIONS, Recipe, build_recipe
from adversarial_mlm.recipes.run import _prepare_folder
from adversarial_mlm.recipes.yaml_file import read_yaml
from adversarial_mlm.saving.checkpoint_store import CheckpointStore
from adversarial_mlm.saving.run_folder import USUAL_FILES, RunFolder
from adversarial_mlm.utils.errors import RecipeError
from adversarial_mlm.utils.options import Source
from tests.data.test_fuzzing import EXAMPLES, SEED

fuzzed = settings(
    max_examples=int(EXAMPLES or 25),
    database=None,
    deadline=None,
    suppress_health_check=list(HealthCheck),
    phases=[Phase.generate, Phase.shrink],
)

# ---- Options ----

GOOD = {"train_data": ["a.fasta"], "output_dir": "x", "use_cpu": True}
TEXTS = st.sampled_from(
    "foo none no on off yes true all latest 0 1 -1 010 1_000 0x1F 1e-5 1e400 .5 5. 1:30 2020-01-01 inf nan a=b a=b,c "
    "[] {} ~ ~/x ~nobody-here/x /nowhere/x.json 0@0 1@0 128@0 256@80% 5% steps epoch cuda spawn sgd adamw_torch wandb "
    "tensorboard cosine null hf_abcdefghijklmnopqrst".split()
)
NUMBERS = st.one_of(
    st.integers(-2, 3), st.sampled_from([10**12, 2**63, 10**30, 0.1, 0.5, -0.5, 1e-30, 1e30, math.inf, math.nan])
)
SCALARS = TEXTS | NUMBERS | st.booleans() | st.none() | st.text(max_size=4)
NAMES = st.sampled_from(["a", "min_lr", "num_cycles", "even_batches", "split_batches", "no"])
VALUES = (
    SCALARS
    | st.lists(SCALARS, max_size=3)
    | st.dictionaries(NAMES, SCALARS | st.lists(SCALARS, max_size=2), max_size=2)
)


def plain(recipe: Recipe) -> dict:
    resolved = json.loads(json.dumps(recipe.resolved(), default=str))
    # the older names mirror those of activation_checkpointing
    return {name: value for name, value in resolved.items() if not name.startswith("gradient_checkpointing")}


def check_refusal(error: RecipeError, names) -> None:
    message = str(error)
    assert any(name in message for name in names) and len(message.splitlines()) == 1 and len(message) < 1100, message
    assert "abcdefghijklmnopqrst" not in message  # a token


def test_any_option_at_any_value_is_read_or_refused_by_name(tmp_path):
    parser, path = OPTIONS.parser(), tmp_path / "mine.yaml"

    @seed(SEED)
    @fuzzed
    @given(st.sampled_from(sorted(OPTIONS.fields)), VALUES)
    def of_a_file(name: str, value: Any) -> None:
        path.write_text(yaml.safe_dump({**GOOD, name: value}, allow_unicode=True), encoding="utf-8")
        try:
            recipe = build_recipe(OPTIONS.read(read_yaml(str(path)), Source("mine.yaml")), {}, "mine.yaml")
        except RecipeError as error:
            check_refusal(error, [name])
            return
        again = build_recipe(OPTIONS.read(read_yaml(recipe.save(str(tmp_path))), Source("again")), {}, "again")
        assert plain(again) == plain(recipe)

    @seed(SEED)
    @fuzzed
    @given(st.sampled_from(sorted(OPTIONS.fields)), SCALARS)
    def of_a_command_line(name: str, value: Any) -> None:
        try:
            build_recipe(GOOD, OPTIONS.read_words([f"--{name}={value}"], parser), "")
        except RecipeError as error:
            check_refusal(error, [name])

    of_a_file()
    of_a_command_line()


def test_any_two_options_are_read_or_refused_by_name():
    @seed(SEED)
    @fuzzed
    @given(st.dictionaries(st.sampled_from(sorted(OPTIONS.fields)), VALUES, min_size=2, max_size=2))
    def run(content: dict[str, Any]) -> None:
        try:
            build_recipe(OPTIONS.read({**GOOD, **content}, Source("mine.yaml")), {}, "mine.yaml")
        except RecipeError as error:
            check_refusal(error, content)

    run()


# ---- Output folders ----

RUN_STATES = ("no run", "killed", "complete")
OF_A_KILLED_RUN = ("recipe.yaml", "data.json", "metrics.jsonl")  # may have changed while it trained
OF_A_RUN = (*OF_A_KILLED_RUN, "config.json", "model.safetensors", "README.md", "noiser/config.json", "merges.txt")
OTHER_NAMES = ("notes.txt", "train.fasta", ".hidden", "checkpoint-9", "checkpoint-notes", "noiser/notes.txt")
INSIDE_CHECKPOINTS = ("checkpoint-2/notes.txt", "checkpoint-2/config.json", ".checkpoint-4.incomplete/a", "runs/a")
CHANGES = st.lists(
    st.tuples(
        st.sampled_from(["write", "write", "delete", "folder", "link"]),
        st.sampled_from([*USUAL_FILES, *OF_A_RUN, *OTHER_NAMES, *INSIDE_CHECKPOINTS, ".run.json", ".lock"]),
    ),
    max_size=4,
)


def make_run(folder: Path, state: str) -> None:
    """What a run leaves that was killed after a checkpoint, or that is complete."""
    run = RunFolder(str(folder))
    run.claim()

    def write(name: str) -> None:
        (folder / name).parent.mkdir(exist_ok=True)
        (folder / name).write_text(f"of the run: {name}")

    for name in OF_A_KILLED_RUN:
        write(name)
    store = CheckpointStore(str(folder))
    assert store.write(2, lambda staging: Path(staging, "config.json").write_text("{}"), processes=1) is None
    if state == "complete":
        run.claim(USUAL_FILES)
        for name in OF_A_RUN:
            write(name)
        run.seal(["merges.txt"])


def change(folder: Path, kind: str, name: str) -> None:
    """What a user may do to a file in a folder."""
    path = folder / name
    with contextlib.suppress(FileExistsError, NotADirectoryError, IsADirectoryError, FileNotFoundError):
        if kind == "delete":
            shutil.rmtree(path) if path.is_dir() and not path.is_symlink() else path.unlink()
            return
        path.parent.mkdir(parents=True, exist_ok=True)
        if kind == "write":
            path.write_text("mine")
        elif kind == "folder":
            path.mkdir()
        else:
            path.symlink_to(folder.parent / "elsewhere.txt")


def content(folder: Path) -> dict[str, str]:
    """Every file, link and empty folder, without those that a command may always write."""
    found = {}
    for path in folder.rglob("*"):
        if path.is_symlink() or path.is_file():
            found[path.relative_to(folder).as_posix()] = (
                f"-> {os.readlink(path)}" if path.is_symlink() else path.read_text()
            )
        elif not any(path.iterdir()):
            found[path.relative_to(folder).as_posix()] = "an empty folder"
    of_runs = {".lock", ".run.json", *(os.path.dirname(name) for name in USUAL_FILES)}
    return {name: text for name, text in found.items() if name not in of_runs}


def test_nothing_that_was_there_changes_unless_the_options_say_so(tmp_path):
    recipe = build_recipe(GOOD, {}, "")
    data = types.SimpleNamespace(save_facts=lambda folder: Path(folder, "data.json").write_text("{}"))
    numbers = iter(range(1 << 40))

    @seed(SEED)
    @fuzzed
    @given(st.sampled_from(RUN_STATES), CHANGES, st.booleans(), st.sampled_from([None, "latest"]))
    def run(state: str, changes: list[tuple[str, str]], overwrite: bool, resume: str | None) -> None:
        folder = tmp_path / str(next(numbers)) / "run"
        folder.mkdir(parents=True)
        if state != "no run":
            make_run(folder, state)
        of_the_run = content(folder)
        for kind, name in changes:
            change(folder, kind, name)
        before = content(folder)
        training = dataclasses.replace(recipe.training, output_dir=str(folder), resume_from_checkpoint=resume)
        options = dataclasses.replace(recipe.run, overwrite_output_dir=overwrite)
        mine = dataclasses.replace(recipe, training=training, run=options)
        marked = RunFolder(str(folder)).is_run()
        try:
            checkpoint = check_output_dir(mine)
            _prepare_folder(mine, data, checkpoint, [])
        except RecipeError as error:
            assert len(str(error).splitlines()) == 1
            assert content(folder) == before
            return
        theirs = {name for name, text in before.items() if of_the_run.get(name) != text}
        if state == "killed" or not marked:  # without a marker only the run of an older version, which resumes
            theirs -= {*OF_A_KILLED_RUN, "nonfinite_records.json"} if state != "no run" else set()
        elif state == "complete":  # its log may have grown, and a user who resumes may have changed the recipe
            theirs -= {"metrics.jsonl"} | ({"recipe.yaml"} if checkpoint is not None else set())
        theirs = {name for name in theirs if not name.startswith(".checkpoint-4.incomplete")}
        after = content(folder)
        assert {name: after.get(name) for name in theirs} == {name: before[name] for name in theirs}
        if not overwrite and checkpoint is None:
            assert {name: after.get(name) for name in before if name not in OF_A_KILLED_RUN} == {
                name: text for name, text in before.items() if name not in OF_A_KILLED_RUN
            }
        shutil.rmtree(folder.parent)

    run()


def test_the_runs_of_this_test_are_runs(tmp_path):
    for state in RUN_STATES[1:]:
        folder = tmp_path / state
        folder.mkdir()
        make_run(folder, state)
        assert RunFolder(str(folder)).is_run() and RunFolder(str(folder)).others() == []
        with pytest.raises(RecipeError, match="contains another run"):
            check_output_dir(build_recipe({**GOOD, "output_dir": str(folder)}, {}, ""))
