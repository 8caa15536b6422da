import json
import re
import shutil
from pathlib import Path

import pytest

from adversarial_mlm.reports.run_report import write_report
from adversarial_mlm.saving.run_folder import RunFolder
from adversarial_mlm.utils.errors import RecipeError
from tests.reports.conftest import log

pytest.importorskip("matplotlib")


def page_of(folder: str | Path) -> str:
    return Path(folder, "report.html").read_text(encoding="utf-8")


def test_the_page_contains_all_pictures_in_both_themes_and_needs_nothing_else(write_run):
    folder = write_run()
    files = write_report([folder])
    assert files[:2] == [f"{folder}/report.html", f"{folder}/report.png"] and len(files) == 11
    assert all(Path(file).read_bytes().startswith(b"\x89PNG") for file in files[1:])
    page = page_of(folder)
    assert (
        page.count('<img src="data:image/png;base64,')
        == 8
        == page.count('(prefers-color-scheme: dark)" srcset="data:')
    )
    assert not re.search(r"https?://|<script|<link|@import|url\(", page)
    assert "<h1>Report on mine</h1>" in page and "complete, 40 updates" in page
    assert "In which options" not in page and "What is not shown?" not in page


def test_several_runs_have_a_table_of_their_differences_and_need_a_folder(write_run, tmp_path, quick):
    runs = [write_run("a", learning_rate=1e-3), write_run("b", log(noiser=False), learning_rate=2e-3)]
    with pytest.raises(RecipeError, match="output_dir is missing"):
        write_report(runs)
    write_report(runs, str(tmp_path / "both"))
    page = page_of(tmp_path / "both")
    assert "<tr><td>learning_rate</td><td>0.001</td><td>0.002</td></tr>" in page
    assert not Path(runs[0], "report.html").exists()


def test_what_is_not_in_the_log_is_named(write_run, quick):
    folder = write_run(entries=log(noiser=False))
    write_report([folder])
    assert "Where in the protein does the noiser mask? Not shown: there is no noiser" in page_of(folder)
    assert not Path(folder, "report", "positions.png").exists()


def test_a_new_report_replaces_the_old_one_and_its_pictures(write_run, quick):
    folder = write_run()
    write_report([folder])
    (Path(folder) / "metrics.jsonl").write_text("".join(json.dumps(entry) + "\n" for entry in log(noiser=False)))
    write_report([folder])
    assert [path.name for path in Path(folder, "report").iterdir()] == ["learning_rates.png"]


def test_files_of_somebody_else_are_not_replaced(write_run, quick):
    folder = write_run()
    Path(folder, "report.html").write_text("<p>mine</p>")
    with pytest.raises(RecipeError, match="report.html exists, and no report of this package wrote it"):
        write_report([folder])
    assert Path(folder, "report.html").read_text() == "<p>mine</p>"
    file = Path(folder, "file")
    file.touch()
    with pytest.raises(RecipeError, match="is not a folder"):
        write_report([folder], str(file))


def test_a_report_that_is_made_later_belongs_to_the_run(write_run, quick):
    folder = write_run()
    run = RunFolder(folder)
    run.seal([])
    write_report([folder])
    assert run.others() == []
    write_report([folder])
    assert run.others() == []  # also if it changes
    Path(folder, "report.png").write_bytes(b"my sketch")
    with pytest.raises(RecipeError, match="report.png was changed since the report was written, and was not replaced"):
        write_report([folder])
    assert Path(folder, "report.png").read_bytes() == b"my sketch" and run.others() == ["report.png"]
    Path(folder, "report.png").unlink()
    write_report([folder])
    run.clear()
    assert not Path(folder, "report").exists() and not Path(folder, "report.html").exists()


def test_names_of_folders_are_escaped_and_told_apart(write_run, tmp_path, quick):
    runs = [write_run("x/<b>run"), write_run("y/<b>run")]
    write_report(runs, str(tmp_path / "out"))
    page = page_of(tmp_path / "out")
    assert "<b>" not in page and "x/&lt;b&gt;run</td>" in page and "y/&lt;b&gt;run</td>" in page


def test_a_folder_that_is_given_twice_is_refused(write_run, tmp_path):
    folder = write_run()
    with pytest.raises(RecipeError, match="is given twice"):
        write_report([folder, f"{folder}/"], str(tmp_path / "out"))


def test_a_comparison_shows_its_table_2_and_its_runs(write_run, repository, tmp_path, quick):
    for seed in (0, 1):
        write_run(f"study/runs/random_20/seed-{seed}/40-updates")
    write_run("study/runs/random_20/other/40-updates")  # not a run of it
    study = tmp_path / "study"
    (study / "runs" / "paper" / "seed-0" / "40-updates").mkdir(parents=True)  # has no log yet
    shutil.copy(repository / "model_cards" / "study_stability.json", study / "study.json")
    write_report([str(study)])
    page = page_of(study)
    assert "compare with the paper&#39;s Table 2" in page and "<td>Stability, test</td>" in page
    assert page.count("random_20, seed 1, 40 updates") and "other/40" not in page


def test_a_comparison_that_is_not_complete_shows_its_runs(write_run, tmp_path, quick):
    write_run("study/runs/random/seed-0/40-updates")
    (tmp_path / "study" / "plan.json").write_text("{}")
    write_report([str(tmp_path / "study")])
    assert "study: the comparison is not complete, so there is no Table 2." in page_of(tmp_path / "study")


def test_a_comparison_without_logs_is_refused_and_so_is_another_json_file(tmp_path):
    (tmp_path / "plan.json").write_text("{}")
    with pytest.raises(RecipeError, match="is a comparison without any run that logged something"):
        write_report([str(tmp_path)])
    (tmp_path / "study.json").write_text("[1]")
    with pytest.raises(RecipeError, match="is not the result of a comparison"):
        write_report([str(tmp_path)])
