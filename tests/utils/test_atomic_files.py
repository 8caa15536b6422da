import os

import pytest
import torch
from safetensors.torch import save_file

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
