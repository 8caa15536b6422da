import os
import re
from pathlib import Path

import pytest
import torch
from safetensors.torch import save_file

import adversarial_mlm
from adversarial_mlm.utils import atomic_files


def test_files_take_their_places_together_and_leave_the_others(tmp_path):
    (tmp_path / "config.json").write_text("old")
    (tmp_path / "metrics.jsonl").write_text("kept")
    with atomic_files.replacing_files(str(tmp_path)) as folder:
        os.mkdir(os.path.join(folder, "noiser"))
        for name in ("config.json", "noiser/config.json"):
            with open(os.path.join(folder, name), "w") as file:
                file.write("new")
        assert (tmp_path / "config.json").read_text() == "old"
    assert {p.relative_to(tmp_path).as_posix(): p.read_text() for p in tmp_path.rglob("*") if p.is_file()} == {
        "config.json": "new",
        "noiser/config.json": "new",
        "metrics.jsonl": "kept",
    }


@pytest.mark.parametrize("error", [OSError(28, "No space left on device"), KeyError("a mistake in the program")])
def test_a_failure_leaves_the_files_as_they_were(tmp_path, error):
    (tmp_path / "config.json").write_text("old")
    expected = atomic_files.WritingError if isinstance(error, OSError) else KeyError
    with pytest.raises(expected) as raised, atomic_files.replacing_files(str(tmp_path)) as folder:
        with open(os.path.join(folder, "config.json"), "w") as file:
            file.write("half")
        raise error
    assert os.listdir(tmp_path) == ["config.json"] and (tmp_path / "config.json").read_text() == "old"
    if expected is atomic_files.WritingError:
        assert str(raised.value) == f"the files in {tmp_path} could not be written: No space left on device"


def test_what_the_libraries_raise_is_known_as_a_failure_to_write(tmp_path):
    nowhere = str(tmp_path / "no" / "such")
    for write in (
        lambda: torch.save({}, nowhere),
        lambda: save_file({"a": torch.zeros(1)}, nowhere),
        lambda: open(nowhere, "w"),
    ):
        with pytest.raises(atomic_files.ERRORS) as raised:
            write()
        assert atomic_files.is_about_writing(raised.value)
        assert len(atomic_files.reason(raised.value, nowhere)) < 60
    assert not atomic_files.is_about_writing(RuntimeError("CUDA error: out of memory"))


@pytest.mark.parametrize("umask, expected", [(0o022, 0o644), (0o077, 0o600)])
def test_weights_get_the_permissions_of_other_files(tmp_path, umask, expected):
    before = os.umask(umask)
    try:
        with atomic_files.replacing_files(str(tmp_path / "run")) as folder:
            os.mkdir(os.path.join(folder, "noiser"))
            save_file({"a": torch.zeros(1)}, os.path.join(folder, "noiser", "model.safetensors"))
    finally:
        os.umask(before)
    assert [path.name for path in (tmp_path / "run").iterdir()] == ["noiser"]
    assert (tmp_path / "run" / "noiser" / "model.safetensors").stat().st_mode & 0o777 == expected


def test_a_file_takes_its_place_when_it_is_complete(tmp_path):
    path = tmp_path / "new folder" / "a.txt"
    with atomic_files.replacing_file(path) as file:
        file.write(b"first")
        assert not path.exists()
    atomic_files.replace_text(str(path), "sécond\n")
    assert path.read_bytes() == "sécond\n".encode() and os.listdir(path.parent) == ["a.txt"]


def test_a_file_that_fails_leaves_the_old_one(tmp_path):
    (tmp_path / "a.txt").write_text("old")
    with pytest.raises(KeyError), atomic_files.replacing_file(tmp_path / "a.txt") as file:
        file.write(b"half")
        raise KeyError("a mistake in the program")
    assert os.listdir(tmp_path) == ["a.txt"] and (tmp_path / "a.txt").read_text() == "old"


def test_the_later_of_two_writers_wins(tmp_path):
    path = tmp_path / "a.txt"
    with atomic_files.replacing_file(path) as earlier:
        earlier.write(b"earlier")
        atomic_files.replace_text(path, "between")
        assert path.read_text() == "between"
    assert path.read_text() == "earlier" and os.listdir(tmp_path) == ["a.txt"]


def test_a_new_file_can_be_read_as_the_umask_says(tmp_path):
    before = os.umask(0o022)
    try:
        atomic_files.replace_text(tmp_path / "a.txt", "shared")
    finally:
        os.umask(before)
    assert (tmp_path / "a.txt").stat().st_mode & 0o777 == 0o644


def test_a_file_that_cannot_be_written_is_an_error_of_the_system(tmp_path):
    (tmp_path / "a.txt").mkdir()
    with pytest.raises(OSError):
        atomic_files.replace_text(tmp_path / "a.txt", "text")
    assert os.listdir(tmp_path) == ["a.txt"]


def test_no_other_module_renames_files():
    """Checkpoints are whole folders, whose store renames them itself."""
    package = Path(adversarial_mlm.__file__).parent
    renaming = re.compile(r"os\.replace|os\.rename|NamedTemporaryFile|mkstemp|\.rename\(")
    found = {
        path.relative_to(package).as_posix()
        for path in package.rglob("*.py")
        if renaming.search(path.read_text(encoding="utf-8"))
    }
    assert found == {"utils/atomic_files.py", "saving/checkpoint_store.py"}
