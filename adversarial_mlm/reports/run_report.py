"""The report on one or several runs: one page with all pictures, and the pictures as files."""

import base64
import glob
import os
import re
import shlex
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from pathlib import Path

import jinja2

from adversarial_mlm.comparison.differences import Study, by_budget
from adversarial_mlm.comparison.folder import read_json
from adversarial_mlm.comparison.report_tables import PaperTable, paper_table
from adversarial_mlm.reports.drawing import DARK, LIGHT, MOST_PANELS, png
from adversarial_mlm.reports.plots import PICTURES, mask_policy, overview
from adversarial_mlm.reports.report_tables import Table, option_differences, results
from adversarial_mlm.reports.run_log import RunLog, read_run
from adversarial_mlm.saving.run_files import (
    METRICS_FILE,
    POLICY_PICTURE,
    REPORT_FILE,
    REPORT_FILES,
    REPORT_FOLDER,
    REPORT_PICTURE,
)
from adversarial_mlm.saving.run_folder import RunFolder
from adversarial_mlm.utils import atomic_files
from adversarial_mlm.utils.counts import count, verb
from adversarial_mlm.utils.errors import RecipeError
from adversarial_mlm.utils.extras import require
from adversarial_mlm.utils.version import __version__

TEMPLATE = Path(__file__).with_name("template.html")
GENERATOR = "adversarial-mlm report"
_STUDY, _PLAN = "study.json", "plan.json"
_RUN_OF_COMPARISON = re.compile(r"(?P<arm>[^/]+)/seed-(?P<seed>\d+)/(?P<updates>\d+)-updates")


@dataclass
class Subjects:
    """What a report is about.

    Attributes:
        names (`list[str]`): Names of the folders.
        runs (`list[RunLog]`): The runs.
        studies (`list[Study]`): The content of `study.json` of each comparison.
        notes (`list[str]`): What was left out, in sentences.
    """

    names: list[str] = field(default_factory=list)
    runs: list[RunLog] = field(default_factory=list)
    studies: list[Study] = field(default_factory=list)
    notes: list[str] = field(default_factory=list)


@dataclass
class _Section:
    id: str
    title: str
    words: str = ""
    table: Table | PaperTable | None = None
    light: str = ""
    dark: str = ""
    notes: list[str] = field(default_factory=list)


def read_subjects(folders: Sequence[str]) -> Subjects:
    """Read the runs in some folders. A comparison's folder stands for all of its runs.

    Raises:
        RecipeError: If a folder is given twice or cannot be read as one of these.
    """
    subjects, seen = Subjects(), set()
    for folder in folders:
        path = os.path.realpath(folder)
        if path in seen:
            raise RecipeError(f"{folder} is given twice")
        seen.add(path)
        subjects.names.append(os.path.basename(path.removesuffix(os.sep + METRICS_FILE)))
        if os.path.isfile(os.path.join(folder, METRICS_FILE)):
            subjects.runs.append(read_run(folder))
        elif _is_comparison(folder):
            _add_comparison(subjects, Path(folder))
        else:
            _refuse_folder_of_runs(folder)
            subjects.runs.append(read_run(folder))
    _make_names_unique(subjects.runs)
    for run in subjects.runs:
        subjects.notes += [f"{run.name}: {remark}." for remark in run.remarks]
    return subjects


def write_report(folders: Sequence[str], output_dir: str | None = None) -> list[str]:
    """Write `report.html`, the main picture `report.png`, and all pictures in the folder `report`.

    For a single run with a noiser it also writes `mask_policy.png`, which its model card shows.

    Args:
        folders (`Sequence[str]`): Folders of runs and comparisons.
        output_dir (`str`, *optional*): Defaults to the folder, if there is only one.

    Returns:
        `list[str]`: Paths of the written files, the page first.

    Raises:
        RecipeError: If a folder cannot be read, or if `output_dir` is missing or holds files of these names that no
            report of this package wrote, or that were changed since.
        MissingPackageError: If matplotlib is not installed.
        WritingError: If a file cannot be written.
    """
    require("matplotlib", "plot", "the report")
    if output_dir is None and len(folders) != 1:
        raise RecipeError("output_dir is missing: a report on several folders needs a folder of its own")
    subjects = read_subjects(folders)
    target = output_dir if output_dir is not None else folders[0]
    if os.path.isfile(target) and output_dir is None:
        target = os.path.dirname(target) or "."  # `metrics.jsonl` itself was given
    _check_target(target)
    files = _files(subjects)
    run = RunFolder(target)
    if run.is_run():
        run.claim(files)  # a kill may leave some of the new files
    with atomic_files.replacing_files(target) as new:
        for name, content in files.items():
            Path(new, name).parent.mkdir(exist_ok=True)
            Path(new, name).write_bytes(content)
    for name in REPORT_FILES:  # of an earlier report, of what this one does not show
        if name not in files:
            Path(target, name).unlink(missing_ok=True)
    run.note(*files)
    return [os.path.join(target, name) for name in files]


def _files(subjects: Subjects) -> dict[str, bytes]:
    """Path → content of each file of a report."""
    pictures: dict[str, bytes] = {}
    sections = list(_sections(subjects, pictures))
    environment = jinja2.Environment(
        autoescape=True, trim_blocks=True, lstrip_blocks=True, undefined=jinja2.StrictUndefined
    )
    title = "Report on " + ", ".join(subjects.names)
    page = environment.from_string(TEMPLATE.read_text(encoding="utf-8")).render(
        title=title, generator=GENERATOR, version=__version__, light=LIGHT, dark=DARK, sections=sections
    )
    return {REPORT_FILE: page.encode(), **pictures}


def _sections(subjects: Subjects, pictures: dict[str, bytes]) -> Iterator[_Section]:
    """The sections of the page; adds each picture to `pictures` under the path of its file."""
    runs = subjects.runs
    for number, study in enumerate(subjects.studies):
        for budget, entries in by_budget(study):
            table = paper_table(study, budget, entries) if budget in study["task_budgets"] else None
            if table is not None:
                yield _Section(f"table-2-{number}-{budget}", table.title, table.note, table)
    if not runs:
        yield _Section("notes", "What is not shown?", notes=subjects.notes)
        return
    main = overview(runs)
    if main is not None:
        pictures[REPORT_PICTURE] = png(main)
    policy = mask_policy(runs)
    if policy is not None:
        pictures[POLICY_PICTURE] = png(policy)
    yield _Section("results", "How did training end?", table=results(runs), notes=subjects.notes)
    if len(runs) > 1:
        differences = option_differences(runs)
        words = "" if differences.rows else "All options are equal, but for names of folders."
        yield _Section("options", "In which options do the runs differ?", words, differences if not words else None)
    missing = []
    for picture in PICTURES:
        figure, dark = (picture.draw(runs, theme) for theme in (LIGHT, DARK))
        if figure is None or dark is None:
            missing.append(f"{picture.title} Not shown: {picture.missing}.")
            continue
        content = pictures[f"{REPORT_FOLDER}/{picture.name}.png"] = png(figure)
        notes = []
        if len(runs) > MOST_PANELS and picture.name in ("enrichment", "replacements", "speed"):
            notes.append(f"Pictures with a panel or bar for each run show the first {MOST_PANELS} runs.")
        yield _Section(
            picture.name,
            picture.title,
            picture.words,
            light=_base64(content),
            dark=_base64(png(dark, DARK)),
            notes=notes,
        )
    if missing:
        yield _Section("missing", "What is not shown?", notes=missing)


def _base64(content: bytes) -> str:
    return base64.b64encode(content).decode()


def _is_comparison(folder: str) -> bool:
    return any(os.path.isfile(os.path.join(folder, name)) for name in (_STUDY, _PLAN))


def _refuse_folder_of_runs(folder: str) -> None:
    """Name the runs and comparisons in a folder that is neither."""
    paths = sorted(glob.glob(os.path.join(glob.escape(folder), "*")))
    inside = [path for path in paths if _is_comparison(path) or os.path.isfile(os.path.join(path, METRICS_FILE))]
    if inside:
        named, more = " and ".join(inside[:2]), f" (and {len(inside) - 2} more)" if len(inside) > 2 else ""
        raise RecipeError(
            f"{folder} is not the folder of a run or of a comparison, but {named}{more} "
            f"{verb(len(inside), 'is', 'are')}: adv-mlm report {shlex.quote(inside[0])}"
        )


def _add_comparison(subjects: Subjects, folder: Path) -> None:
    if (folder / _STUDY).is_file():
        study = read_json(folder / _STUDY)
        if not isinstance(study, dict) or not {"arms", "tasks", "task_budgets", "untrained"} <= study.keys():
            raise RecipeError(f"{folder / _STUDY} is not the result of a comparison")
        subjects.studies.append(study)
        if not study["task_budgets"]:
            subjects.notes.append(f"{folder.name}: no downstream tasks were evaluated, so there is no Table 2.")
    else:
        subjects.notes.append(f"{folder.name}: the comparison is not complete, so there is no Table 2.")
    found = 0
    for path in sorted((folder / "runs").glob("*/*/*")):
        match = _RUN_OF_COMPARISON.fullmatch(path.relative_to(folder / "runs").as_posix())
        if match is None or not (path / METRICS_FILE).is_file():
            continue
        name = f"{match['arm']}, seed {match['seed']}, {count(int(match['updates']), 'update')}"
        try:
            subjects.runs.append(read_run(path, name, match["arm"]))
            found += 1
        except RecipeError as error:  # such as a run that has not logged anything
            subjects.notes.append(f"{error}.")
    if not found:
        subjects.notes.append(f"{folder.name}: there are no logs of runs in it.")
        if not subjects.studies:
            raise RecipeError(f"{folder} is a comparison without any run that logged something: nothing can be drawn")


def _make_names_unique(runs: Sequence[RunLog]) -> None:
    names = [run.name for run in runs]
    for run in runs:
        if names.count(run.name) > 1:
            own = run.group == run.name
            run.name = os.path.normpath(run.folder)
            run.group = run.name if own else run.group


def _check_target(folder: str) -> None:
    """Make sure that no file is replaced that no report wrote."""
    if os.path.lexists(folder) and not os.path.isdir(folder):
        raise RecipeError(f"output_dir {folder} is not a folder: choose another name")
    there = [name for name in REPORT_FILES if os.path.lexists(os.path.join(folder, name))]
    if not there:
        return
    try:
        with open(os.path.join(folder, REPORT_FILE), encoding="utf-8", errors="replace") as file:
            is_ours = GENERATOR in file.read(1000)
    except OSError:
        is_ours = False
    if not is_ours:
        raise RecipeError(
            f"{os.path.join(folder, there[0])} exists, and no report of this package wrote it; it was not changed: "
            "choose another output_dir"
        )
    changed = [name for name in there if RunFolder(folder).is_changed(name)]
    if changed:
        raise RecipeError(
            f"{os.path.join(folder, changed[0])} was changed since the report was written, and was not replaced: move "
            "it to another name, or choose another output_dir"
        )
