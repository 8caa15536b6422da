import json

import pytest

from adversarial_mlm.saving.checkpoint_store import CheckpointStore
from adversarial_mlm.saving.run_folder import USUAL_FILES, RunFolder


@pytest.fixture
def run(tmp_path):
    """A finished run with a checkpoint, and a file of somebody else."""
    folder = tmp_path / "run"
    folder.mkdir()
    run = RunFolder(str(folder))
    run.claim()

    def fill(staging):
        for name in ("model.safetensors", "noiser/model.safetensors"):
            path = tmp_path / staging / name
            path.parent.mkdir(exist_ok=True)
            path.write_text("weights")

    for name in ("config.json", "metrics.jsonl", "noiser/config.json", "merges.txt"):
        (folder / name).parent.mkdir(exist_ok=True)
        (folder / name).write_text(name)
    assert CheckpointStore(str(folder)).write(2, fill, processes=1) is None
    run.seal(["merges.txt"])
    (folder / "notes.txt").write_text("mine")
    return run, folder


def names(folder) -> set[str]:
    return {path.relative_to(folder).as_posix() for path in folder.rglob("*") if path.name != ".run.json"}


def test_what_a_run_wrote_is_its_own_and_all_that_is_removed(run):
    run, folder = run
    assert run.is_run() and run.others() == []
    run.clear()
    assert names(folder) == {"notes.txt"}


@pytest.mark.parametrize("name", ["config.json", "noiser/config.json", "merges.txt"])
def test_a_file_that_was_changed_is_no_longer_the_runs(run, name):
    run, folder = run
    (folder / name).write_text("mine")
    assert run.others() == [name]


def test_a_file_that_was_added_under_a_name_of_a_run_is_not_the_runs(run):
    run, folder = run
    (folder / "README.md").write_text("mine")
    assert run.others() == ["README.md"]


def test_the_log_may_grow(run):
    run, folder = run
    with open(folder / "metrics.jsonl", "a") as file:
        file.write("{}\n")
    assert run.others() == []


def test_a_checkpoint_with_a_file_of_somebody_else_or_of_another_tool_is_not_the_runs(run):
    run, folder = run
    (folder / "checkpoint-2" / "notes.txt").write_text("mine")
    (folder / "checkpoint-9").mkdir()
    assert run.others() == ["checkpoint-2", "checkpoint-9"]


def test_a_link_in_place_of_a_file_is_not_followed(run, tmp_path):
    run, folder = run
    (tmp_path / "elsewhere.json").write_text("config.json")
    (folder / "config.json").unlink()
    (folder / "config.json").symlink_to(tmp_path / "elsewhere.json")
    assert run.others() == ["config.json"]


def test_what_a_run_is_about_to_write_is_its_own_and_what_it_is_not_is_not(tmp_path):
    run = RunFolder(str(tmp_path))
    run.claim()
    for name in ("recipe.yaml", "data.json", "metrics.jsonl", "nonfinite_records.json"):
        (tmp_path / name).write_text("half")
    assert run.others() == []
    (tmp_path / "README.md").write_text("my notes on a run that was killed")
    assert run.others() == ["README.md"]
    (tmp_path / "README.md").unlink()
    run.claim(USUAL_FILES)
    for name in ("model.safetensors", "trainer_state.json", "vocab.txt", "README.md"):
        (tmp_path / name).write_text("half")
    assert run.others() == []
    run.clear()
    assert names(tmp_path) == set()


def test_a_run_that_goes_on_keeps_the_checksums_of_what_it_has_saved(run):
    run, folder = run
    run.claim()
    assert run.others() == []
    (folder / "config.json").write_text("mine")
    assert run.others() == ["config.json"]


@pytest.mark.parametrize(
    "marker",
    ["", "[]", "{}", '{"format": 1}', '{"format": 9, "files": {}}', '{"format": 1, "files": {"../x": null}}'],
)
def test_a_marker_that_is_not_ours_marks_nothing(tmp_path, marker):
    (tmp_path / ".run.json").write_text(marker)
    (tmp_path / "notes.txt").write_text("mine")
    run = RunFolder(str(tmp_path))
    assert not run.is_run() and run.others() == ["notes.txt"]


def test_the_marker_is_plain_and_names_who_wrote_it(run):
    run, folder = run
    marker = json.loads((folder / ".run.json").read_text())
    assert marker["written_by"] == "adversarial-mlm" and len(marker["files"]["config.json"]) == 64
