"""The report of a comparison replaces no file that somebody else wrote or changed."""

import json
from pathlib import Path

import pytest

from adversarial_mlm.comparison import compare as compare_module
from adversarial_mlm.comparison import report_files
from adversarial_mlm.utils.errors import RecipeError


class Killed(BaseException):
    """As by a signal that cannot be handled: nothing is cleaned up."""


def test_a_report_that_somebody_changed_is_not_replaced(compare, compared, monkeypatch, tmp_path):
    (compared / "study.md").write_text("my notes\n")
    with monkeypatch.context() as patch:
        patch.setattr(compare_module, "measure", None)  # it is said before any work
        with pytest.raises(RecipeError, match=r"would replace \S+/study/study.md, which is not as this comparison"):
            compare()
    assert (compared / "study.md").read_text() == "my notes\n"
    (compared / "study.md").rename(compared / "notes.md")
    (compared / "runs.csv").write_text("arm\n")
    with pytest.raises(RecipeError, match=r"would replace \S+/runs.csv, which is not"):
        compare()
    (compared / "runs.csv").unlink()
    assert compare().tables == (compared / "study.md").read_text()
    assert (compared / "notes.md").read_text() == "my notes\n"


def test_a_report_that_is_changed_while_runs_are_made_stays_too(compare, compared, monkeypatch):
    def change_and_read(comparison):
        (compared / "study.md").write_text("my notes\n")
        return read(comparison)

    read = compare_module.read_confirmation
    with monkeypatch.context() as patch:
        patch.setattr(compare_module, "read_confirmation", change_and_read)
        with pytest.raises(RecipeError, match=r"move it to another name, and start the same command again"):
            compare()
    assert (compared / "study.md").read_text() == "my notes\n"


def test_a_copy_replaces_only_the_copy_of_before(compare, compared, tmp_path):
    copy = tmp_path / "notes.md"
    for _ in range(2):
        compare(None, "--markdown", str(copy))
    copy.write_text("my notes\n")
    with pytest.raises(RecipeError, match=r"would replace \S+/notes.md, which is not as this comparison wrote it"):
        compare(None, "--markdown", str(copy))
    assert copy.read_text() == "my notes\n"


def test_a_kill_while_the_report_is_written_leaves_nothing_that_looks_changed(compare, compared, monkeypatch):
    replacing_file, written = report_files.atomic_files.replacing_file, []

    def killed(path):
        if Path(path).name in ("study.json", "study.md", "runs.csv"):
            written.append(path)
            if len(written) == 3:
                raise Killed
        return replacing_file(path)

    with monkeypatch.context() as patch:
        patch.setattr(report_files.atomic_files, "replacing_file", killed)
        with pytest.raises(Killed):
            compare({"corpus": "another name of it"}, "--selection_only")
    assert "another name of it" in compare({"corpus": "another name of it"}).tables


def test_the_report_of_an_earlier_version_is_known_by_its_study(compare, compared):
    marker = json.loads((compared / ".output.json").read_text())
    for files, as_written in (({"study.md": "my notes\n"}, False), ({}, True)):
        (compared / ".output.json").write_text(json.dumps({k: v for k, v in marker.items() if k != "files"}))
        before = (compared / "study.md").read_text()
        for name, text in files.items():
            (compared / name).write_text(text)
        if as_written:
            compare()
        else:
            with pytest.raises(RecipeError, match="would replace"):
                compare()
        (compared / "study.md").write_text(before)
