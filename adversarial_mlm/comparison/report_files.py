"""The files of a comparison's report. A file that somebody changed since the report was written is not replaced."""

import hashlib
import io
import json
import os
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING

from adversarial_mlm.comparison import report_plot
from adversarial_mlm.comparison.difference_plot import difference_figure
from adversarial_mlm.comparison.differences import Study
from adversarial_mlm.comparison.folder import ComparisonFolder
from adversarial_mlm.comparison.report_csv import runs_csv
from adversarial_mlm.comparison.report_tables import markdown
from adversarial_mlm.utils import atomic_files, output_folders
from adversarial_mlm.utils.counts import verb
from adversarial_mlm.utils.errors import RecipeError, WritingError
from adversarial_mlm.utils.hashing import file_checksum

if TYPE_CHECKING:
    from matplotlib.figure import Figure

STUDY_FILE, TABLES_FILE, RUNS_FILE, PLOT_FILE = "study.json", "study.md", "runs.csv", "study.png"
DIFFERENCES_FILE = "differences.png"

Copies = Mapping[str, Path]
"""Name of a file of the report → where a copy of it goes."""


def check(folder: ComparisonFolder, copies: Copies) -> None:
    """Check that a report would replace only files that the comparison wrote and nobody changed.

    Args:
        folder ([`ComparisonFolder`]): The folder, which is taken.
        copies (`Copies`): Where copies go.

    Raises:
        RecipeError: If it would replace another file. The message names it.
    """
    noted = output_folders.noted_files(os.fspath(folder.path))
    own = [folder.path / name for name in (STUDY_FILE, TABLES_FILE, RUNS_FILE, PLOT_FILE, DIFFERENCES_FILE)]
    others = [
        os.fspath(path)
        for path in (*own, *copies.values())
        if os.path.lexists(path) and not _is_as_written(folder, path, noted)
    ]
    if others:
        one = len(others)
        raise RecipeError(
            f"the report would replace {output_folders.listed(others)}, which {verb(one, 'is', 'are')} not as this "
            f"comparison wrote {verb(one, 'it', 'them')}: move {verb(one, 'it', 'them')} to another name, and start "
            "the same command again"
        )


def write(folder: ComparisonFolder, study: Study, plot: bool, copies: Copies) -> tuple[str, list[Path]]:
    """Write the report and its copies.

    Args:
        folder ([`ComparisonFolder`]): The folder, which is taken; its lock `tables` is held.
        study (`Mapping`): The study, as plain data.
        plot (`bool`): Whether to draw `study.png`.
        copies (`Copies`): Where copies go.

    Returns:
        The tables as text, and the paths of all files.

    Raises:
        RecipeError: As [`check`].
        WritingError: If a file cannot be written.
    """
    check(folder, copies)  # somebody may have changed a file since the start
    text = json.dumps(study, indent=1, allow_nan=False) + "\n"
    study = json.loads(text)  # the tables are made from what is written
    tables = markdown(study)
    contents = {STUDY_FILE: text.encode(), TABLES_FILE: tables.encode(), RUNS_FILE: runs_csv(study).encode()}
    if plot:
        figures = {PLOT_FILE: report_plot.figure_of(study), DIFFERENCES_FILE: difference_figure(study)}
        contents |= {name: _png(figure) for name, figure in figures.items() if figure is not None}
    files = {folder.path / name: content for name, content in contents.items()}
    files |= {path: contents[name] for name, path in copies.items()}
    sums = {_key(folder, path): hashlib.sha256(content).hexdigest() for path, content in files.items()}
    before = output_folders.noted_files(os.fspath(folder.path)) or {}
    try:
        # both are noted while they are written, because a kill may come at any moment
        _note(folder, {**before, **{key: [*before.get(key, ()), value] for key, value in sums.items()}})
        for path, content in files.items():
            path.parent.mkdir(parents=True, exist_ok=True)
            with atomic_files.replacing_file(path) as file:
                file.write(content)
        _note(folder, {**before, **{key: [value] for key, value in sums.items()}})
    except OSError as error:
        raise WritingError(
            f"the report could not be written to {error.filename or folder.path} ({error.strerror or error})"
        ) from error
    return tables, list(files)


def _png(figure: "Figure") -> bytes:
    picture = io.BytesIO()
    figure.savefig(picture, format="png", dpi=150)
    return picture.getvalue()


def _note(folder: ComparisonFolder, files: Mapping[str, Sequence[str]]) -> None:
    output_folders.note_files(os.fspath(folder.path), files)


def _key(folder: ComparisonFolder, path: Path) -> str:
    """Name of a file in the marker: within the folder, which may be moved, its name; elsewhere its absolute path."""
    return path.name if path.parent == folder.path else os.path.abspath(path)


def _is_as_written(folder: ComparisonFolder, path: Path, noted: Mapping[str, Sequence[str]] | None) -> bool:
    key = _key(folder, path)
    if not path.is_file():
        return False
    if noted is not None:
        return file_checksum(path) in noted.get(key, ())
    # an earlier version noted no checksums: compare with what study.json gives
    study = folder.read(STUDY_FILE)
    render = {TABLES_FILE: markdown, RUNS_FILE: runs_csv}.get(key)
    if study is None or path.parent != folder.path:
        return False
    return render is None or path.read_text(encoding="utf-8") == render(study)
