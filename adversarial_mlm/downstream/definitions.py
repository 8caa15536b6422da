"""Definitions of the downstream tasks, as plain data."""

import dataclasses
from collections.abc import Mapping
from dataclasses import dataclass, field

from adversarial_mlm.utils.errors import CorpusError

KINDS = ("regression", "classification", "token_classification")

CONTACTS = "contacts"
"""The task of residue contacts. It is evaluated on its own, because its data are no labels of proteins or residues."""


@dataclass(frozen=True)
class Task:
    """What to predict, and which files and columns hold it.

    Attributes:
        name (`str`): the name, also of the task's folder in TAPE's data.
        kind (`str`): `"regression"`, `"classification"` (of proteins) or `"token_classification"` (of residues).
        target (`str`): the column with the labels.
        file_prefix (`str`, defaults to `""`): files are named `<file_prefix>_<split>`; empty for a user's own task.
        splits (`tuple[str]`): train, valid and the test sets, in this order.
        headline (`str`, defaults to `"test"`): the test set of the paper's Table 2.
        optional_splits (`tuple[str]`, defaults to none): test sets that TAPE lacks; no warning if they are missing.
        table_1 (`dict[str, int]`, defaults to none): number of records by split, from the paper's Table 1 (train,
            valid, headline) and from TAPE (other test sets).
        class_names (`tuple[str]`, *optional*): the classes, if they are fixed; a class's index is its number.
        sequence_column (`str`, defaults to `"primary"`): the column with the sequences.
        id_column (`str`, *optional*): the column with the ids; by default `id` if it exists, else records are
            numbered.
        mask_column (`str`, *optional*): the column that marks the residues that count.
        mask_required (`bool`, defaults to `False`): whether every record must have a mask. Otherwise all residues of a
            record without a mask count.
        remarks (`dict[str, str]`, defaults to none): columns that metrics need, with their type, `"string"` or
            `"int32"`; kept if they exist.
        levels (`dict[str, str]`, defaults to none): level of homology by test set.
        tape_target (`str`, *optional*): the column with TAPE's target in files that have several.
        groups (`dict[str, str]`, defaults to none): remarks that name groups of related proteins, such as `parent`,
            with what a group is; intervals resample the groups of the first one that the files have.
        unit (`str`, defaults to `"proteins"`): what intervals resample without such a column.
        other_units (`bool`, defaults to `False`): whether predictions are scores in other units than the labels, so
            that there is no squared error.
    """

    name: str
    kind: str
    target: str
    file_prefix: str = ""
    splits: tuple[str, ...] = ("train", "valid", "test")
    headline: str = "test"
    optional_splits: tuple[str, ...] = ()
    table_1: Mapping[str, int] = field(default_factory=dict)
    class_names: tuple[str, ...] | None = None
    sequence_column: str = "primary"
    id_column: str | None = None
    mask_column: str | None = None
    mask_required: bool = False
    remarks: Mapping[str, str] = field(default_factory=dict)
    levels: Mapping[str, str] = field(default_factory=dict)
    tape_target: str | None = None
    groups: Mapping[str, str] = field(default_factory=dict)
    unit: str = "proteins"
    other_units: bool = False

    @property
    def tests(self) -> tuple[str, ...]:
        """The test sets."""
        return self.splits[2:]


RESIDUE_CLASSES = {"ss3": ("H", "E", "C"), "ss8": ("G", "H", "I", "B", "E", "S", "T", "C")}
"""The states of secondary structure, in TAPE's order."""

TASKS: dict[str, Task] = {
    task.name: task
    for task in (
        Task(
            name="secondary_structure",
            kind="token_classification",
            target="ss3",
            file_prefix="secondary_structure",
            splits=("train", "valid", "cb513", "ts115", "casp12", "new364"),
            headline="cb513",
            optional_splits=("new364",),
            table_1={"train": 8678, "valid": 2170, "cb513": 513, "ts115": 115, "casp12": 21},
            class_names=RESIDUE_CLASSES["ss3"],
            mask_column="valid_mask",
        ),
        Task(
            name="remote_homology",
            kind="classification",
            target="fold_label",
            file_prefix="remote_homology",
            splits=("train", "valid", "test_fold_holdout", "test_superfamily_holdout", "test_family_holdout"),
            headline="test_fold_holdout",
            table_1={
                "train": 12312,
                "valid": 736,
                "test_fold_holdout": 718,
                "test_superfamily_holdout": 1254,
                "test_family_holdout": 1272,
            },
            # TAPE's files have numbers, other files have names
            remarks=dict.fromkeys(("superfamily", "family", "superfamily_label", "family_label"), "string"),
            levels={
                "test_fold_holdout": "fold",
                "test_superfamily_holdout": "superfamily",
                "test_family_holdout": "family",
            },
            groups={"superfamily": "superfamilies", "superfamily_label": "superfamilies"},
        ),
        Task(
            name="fluorescence",
            kind="regression",
            target="log_fluorescence",
            file_prefix="fluorescence",
            table_1={"train": 21446, "valid": 5362, "test": 27217},
            remarks={"num_mutations": "int32"},
            unit="variants of one wild type",
        ),
        Task(
            name="stability",
            kind="regression",
            target="stability_score",
            file_prefix="stability",
            table_1={"train": 53679, "valid": 2447, "test": 12839},
            remarks={"topology": "string", "parent": "string"},
            tape_target="stability_score_c",
            groups={"parent": "designs"},
        ),
    )
}
"""TAPE's tasks by name. Sizes are from the paper's Table 1 and from TAPE."""


def with_labels(labels: str) -> Task:
    """Return secondary structure with 3 or 8 states.

    Args:
        labels (`str`): `"ss3"` (helix H, strand E, coil C) or `"ss8"` (the DSSP states G H I B E S T C).

    Raises:
        [`CorpusError`]: if `labels` has another value.
    """
    if labels not in RESIDUE_CLASSES:
        raise CorpusError(f"labels must be one of {', '.join(RESIDUE_CLASSES)}, got {labels!r}.")
    return dataclasses.replace(TASKS["secondary_structure"], target=labels, class_names=RESIDUE_CLASSES[labels])


def with_target(task: Task, target: str) -> Task:
    """Return the task with another column as its target.

    For stability this selects the score. TAPE and the paper use the chymotrypsin score. TAPE's files call it
    `stability_score`; files with both scores call it `stability_score_c`.
    """
    if task.name == "secondary_structure":
        return with_labels(target)
    return dataclasses.replace(task, target=target)


def with_groups(task: Task, column: str | None) -> Task:
    """Return the task with another column of groups for its intervals; the same task for `None`.

    Raises:
        [`CorpusError`]: if the column holds the sequences or the labels.
    """
    if column is None:
        return task
    if column in (task.sequence_column, task.target, task.mask_column):
        raise CorpusError(f"group_column is {column}, which holds sequences or labels: choose another column.")
    remarks = {**task.remarks, column: task.remarks.get(column, "string")}
    return dataclasses.replace(task, groups={column: f"groups of {column}"}, remarks=remarks)


def own_task(
    kind: str,
    target: str,
    *,
    sequence_column: str = "sequence",
    id_column: str | None = None,
    mask_column: str | None = None,
    name: str = "own_task",
) -> Task:
    """Describe your own task, for [`load_own_task`].

    Args:
        kind (`str`): `"regression"`, `"classification"` or `"token_classification"`.
        target (`str`): the column with the labels: for regression a number, for classification a whole number or a
            name. For residues a text with one letter each, or a list of numbers or names (also as text). Missing
            values (empty, null, NA, NaN, ...) and -100 are no labels: such residues do not count, and such records are
            left out.
        sequence_column (`str`, defaults to `"sequence"`): the column with the sequences.
        id_column (`str`, *optional*): the column with the ids; by default `id` if it exists, else records are
            numbered.
        mask_column (`str`, *optional*): for labels of residues, the column with 1 (or true) for residues that count
            and 0 (or false) for others: a text of ones and zeros, or a list (also as text).
        name (`str`, defaults to `"own_task"`): the name in results.

    Raises:
        [`CorpusError`]: if `kind` is unknown, if one column has two roles, or if a mask is given for a task with one
            label per protein.
    """
    if kind not in KINDS:
        raise CorpusError(f"kind must be one of {', '.join(KINDS)}, got {kind!r}.")
    if mask_column is not None and kind != "token_classification":
        raise CorpusError(
            f"mask_column={mask_column!r} does not apply to {kind}, which has one label per protein: remove it."
        )
    columns = [column for column in (sequence_column, target, id_column, mask_column) if column is not None]
    if len(set(columns)) != len(columns):
        raise CorpusError(f"sequence, target, id and mask need different columns, got {columns}.")
    return Task(
        name=name,
        kind=kind,
        target=target,
        sequence_column=sequence_column,
        id_column=id_column,
        mask_column=mask_column,
        mask_required=mask_column is not None,
    )
