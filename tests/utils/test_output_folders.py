import os
import subprocess
import sys

import pytest

from adversarial_mlm.utils.errors import RecipeError
from adversarial_mlm.utils.output_folders import check_own, listed, mark, occupy, take

HOLD = """
import sys, time
from adversarial_mlm.utils.output_folders import take
take(sys.argv[1], "evaluation", shared=sys.argv[2] == "shared")
print("held", flush=True)
time.sleep(60)
"""


def test_a_folder_that_is_new_empty_or_marked_is_taken_again_and_again(tmp_path):
    folder = str(tmp_path / "out")
    for _ in range(2):
        take(folder, "evaluation")
    (tmp_path / "out" / "notes.txt").write_text("added later")
    take(folder, "evaluation")
    assert (tmp_path / "out" / "notes.txt").read_text() == "added later"
    with pytest.raises(RecipeError, match=r"no comparison of this package has marked as its own \(notes.txt\)"):
        take(folder, "comparison")


def test_what_was_there_is_named_and_stays(tmp_path):
    for number in range(7):
        (tmp_path / f"{number}.txt").write_text("mine")
    (tmp_path / ".hidden").write_text("mine")
    before = sorted(os.listdir(tmp_path))
    with pytest.raises(RecipeError, match=r"\(0.txt, 1.txt, 2.txt, 3.txt, 4.txt and 2 more\); they were not changed"):
        take(str(tmp_path), "evaluation")
    assert sorted(os.listdir(tmp_path)) == before
    check_own(str(tmp_path), "evaluation", has_own=lambda: True)
    assert listed(["a", "b"]) == "a, b"


@pytest.mark.parametrize("marker", ["", "{}", "[]", '{"format": 9, "kind": "evaluation"}', "[" * 9999])
def test_another_file_of_the_markers_name_is_no_marker(tmp_path, marker):
    (tmp_path / "notes.txt").write_text("mine")
    (tmp_path / ".output.json").write_text(marker)
    with pytest.raises(RecipeError, match="notes.txt"):
        check_own(str(tmp_path), "evaluation")


def test_a_folder_that_cannot_be_written_to_is_named(tmp_path):
    (tmp_path / "file").write_text("mine")
    with pytest.raises(RecipeError, match="output_dir .*file is not a folder"):
        take(str(tmp_path / "file"), "evaluation")
    with pytest.raises(RecipeError, match="output_dir .*file/below cannot be written to .Not a directory"):
        take(str(tmp_path / "file" / "below"), "evaluation")
    (tmp_path / "link").symlink_to(tmp_path / "nowhere")
    for name, what in (("file", "is not a folder"), ("link", "is a link to something that is missing")):
        with pytest.raises(RecipeError, match=f"output_dir .*{name} {what}: choose another name"):
            occupy(str(tmp_path / name))
    with pytest.raises(RecipeError, match="cannot be written to"):
        mark(str(tmp_path / "file"), "evaluation")


@pytest.mark.parametrize("held", ["alone", "shared"])
def test_a_second_command_is_refused_unless_both_share_the_folder(tmp_path, held):
    holder = subprocess.Popen([sys.executable, "-c", HOLD, str(tmp_path), held], stdout=subprocess.PIPE, text=True)
    assert holder.stdout.readline().strip() == "held"
    try:
        with pytest.raises(RecipeError, match="is in use by another command: wait for its end"):
            take(str(tmp_path), "evaluation")
        if held == "shared":
            take(str(tmp_path), "evaluation", shared=True)
    finally:
        holder.kill()
        holder.wait()
