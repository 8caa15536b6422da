import multiprocessing
import os
import signal
import subprocess
import sys

import pytest

from adversarial_mlm.comparison.folder import ComparisonFolder
from adversarial_mlm.comparison.plan import Run
from adversarial_mlm.comparison.runs import _remove
from adversarial_mlm.recipes.recipe import RecipeError
from adversarial_mlm.utils.locks import try_lock


def _hold(path, ready):
    with ComparisonFolder(path).lock("run"):
        ready.set()
        signal.pause()


def test_one_process_at_a_time_and_a_killed_one_leaves_no_lock_behind(tmp_path):
    folder = ComparisonFolder(str(tmp_path))
    context = multiprocessing.get_context("fork")
    ready = context.Event()
    other = context.Process(target=_hold, args=(str(tmp_path), ready))
    other.start()
    assert ready.wait(20)
    with folder.lock("run", wait=False) as ours:
        assert not ours
    with folder.lock("another run", wait=False) as ours:
        assert ours
    os.kill(other.pid, signal.SIGKILL)
    other.join()
    with folder.lock("run", wait=False) as ours:
        assert ours


def test_a_run_that_was_stopped_gives_up_its_folder_before_another_process_takes_the_run(tmp_path):
    folder, run = ComparisonFolder(str(tmp_path)), Run("game", 3, 7)
    folder.of(run).mkdir(parents=True)
    take = "import sys; from adversarial_mlm.utils.locks import try_lock; sys.exit(not try_lock(sys.argv[1]))"

    def another_process_can_take_it() -> bool:
        return subprocess.run([sys.executable, "-c", take, str(folder.of(run))], check=False).returncode == 0

    with pytest.raises(KeyboardInterrupt), folder.lock(run.name):
        assert try_lock(str(folder.of(run)))
        assert not another_process_can_take_it()
        raise KeyboardInterrupt
    assert another_process_can_take_it()


def test_a_run_is_complete_with_its_result(tmp_path):
    folder, run = ComparisonFolder(str(tmp_path)), Run("game", 3, 7)
    folder.of(run).mkdir(parents=True)
    assert not folder.is_done(run) and folder.results() == {}
    folder.write(f"runs/{run.name}/result.json", {"metrics": {}})
    (tmp_path / "runs" / "game" / "seed-3" / "7-updates.old").mkdir()  # somebody's copy
    assert folder.is_done(run) and folder.results() == {run: {"metrics": {}}} and folder.begun() == {run}


def test_a_damaged_file_is_named(tmp_path):
    folder = ComparisonFolder(str(tmp_path))
    (tmp_path / "plan.json").write_text('{"arms": ')
    with pytest.raises(RecipeError, match=r"plan.json is damaged \(.*\): move it away"):
        folder.read("plan.json")


def test_only_a_folder_that_is_new_empty_or_its_own_is_taken(tmp_path):
    (tmp_path / "file").write_text("")
    with pytest.raises(RecipeError, match="output_dir .*file is not a folder"):
        ComparisonFolder(str(tmp_path / "file")).take()
    (tmp_path / "mine" / "runs").mkdir(parents=True)
    (tmp_path / "mine" / "plan.json").write_text('{"arms": ["my plans"]}')
    for attempt in (ComparisonFolder(str(tmp_path / "mine")).check, ComparisonFolder(str(tmp_path / "mine")).take):
        with pytest.raises(
            RecipeError, match=r"no comparison of this package has marked as its own \(plan.json, runs\)"
        ):
            attempt()
    assert sorted(os.listdir(tmp_path / "mine")) == ["plan.json", "runs"]
    for _ in range(2):
        ComparisonFolder(str(tmp_path / "new")).take()
    (tmp_path / "new" / "notes.txt").write_text("added later")
    ComparisonFolder(str(tmp_path / "new")).check()
    (tmp_path / "mine" / "plan.json").write_text(
        '{"arms": {}, "entries": {}, "runs": []}'
    )  # of a version without markers
    ComparisonFolder(str(tmp_path / "mine")).take()


def test_a_run_that_starts_again_does_not_take_files_of_others_with_it(tmp_path):
    run, note = Run("game", 0, 7), tmp_path / "7-updates.json"
    folder = tmp_path / "7-updates"
    for name in ("model.safetensors", "figures.json", "tasks/stability.json", "noiser/config.json", "notes.txt"):
        (folder / name).parent.mkdir(parents=True, exist_ok=True)
        (folder / name).write_text("x")
    note.write_text("{}")
    with pytest.raises(RecipeError, match=r"contains files that no run wrote \(notes.txt\): move them"):
        _remove(folder, note, run)
    assert (folder / "model.safetensors").exists() and note.exists()
    (folder / "notes.txt").unlink()
    _remove(folder, note, run)
    assert not folder.exists() and not note.exists()
