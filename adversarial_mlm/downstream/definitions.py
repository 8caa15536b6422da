"""Which tasks there are: plain data."""

import dataclasses
from collections.abc import Mapping
from dataclasses import dataclass, field

from adversarial_mlm.utils.errors import CorpusError

KINDS = ("regression", "classification", "token_classification")


@dataclass(frozen=True)
class Task:
    """What is to be predicted, and where it stands in the files.

    Attributes:
        name (`str`): the name, which is also that of the task's folder in TAPE's data.
        kind (`str`): `"regression"`, `"classification"` (of proteins) or `"token_classification"` (of residues).
        target (`str`): the column that holds the labels.
        file_prefix (`str`, defaults to `""`): files are named `<file_prefix>_<split>`; empty for a user's own task.
        splits (`tuple[str]`): train, valid and the tests, in this order.
        headline (`str`, defaults to `"test"`): the test whose figure stands in the paper's Table 2.
        optional_splits (`tuple[str]`, defaults to none): tests that TAPE does not have; nothing is said if they are
            not there.
        table_1 (`dict[str, int]`, defaults to none): records by split, as in the paper's Table 1 (train, valid,
            headline) and in TAPE (the other tests).
        class_names (`tuple[str]`, *optional*): the classes, where they are fixed; a class's index is its number.
        sequence_column (`str`, defaults to `"primary"`): the column that holds the sequences.
        id_column (`str`, *optional*): the column that holds the ids; by default `id` if it is there, else records are
            numbered.
        mask_column (`str`, *optional*): the column that says which residues count.
        mask_required (`bool`, defaults to `False`): whether every record must have a mask. If not, all residues of a
            record without a mask count.
        remarks (`dict[str, str]`, defaults to none): columns that metrics need, kept if there, with their type,
            `"string"` or `"int32"`.
        levels (`dict[str, str]`, defaults to none): by test, which level of homology it asks for.
        tape_target (`str`, *optional*): a column that, where files have it, is what TAPE calls the target.
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

    @property
    def tests(self) -> tuple[str, ...]:
        """The splits after train and valid."""
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
            # TAPE's files have numbers where others have names.
            remarks=dict.fromkeys(("superfamily", "family", "superfamily_label", "family_label"), "string"),
            levels={
                "test_fold_holdout": "fold",
                "test_superfamily_holdout": "superfamily",
                "test_family_holdout": "family",
            },
        ),
        Task(
            name="fluorescence",
            kind="regression",
            target="log_fluorescence",
            file_prefix="fluorescence",
            table_1={"train": 21446, "valid": 5362, "test": 27217},
            remarks={"num_mutations": "int32"},
        ),
        Task(
            name="stability",
            kind="regression",
            target="stability_score",
            file_prefix="stability",
            table_1={"train": 53679, "valid": 2447, "test": 12839},
            remarks={"topology": "string", "parent": "string"},
            tape_target="stability_score_c",
        ),
    )
}
"""TAPE's tasks by name. Sizes are those of the paper's Table 1 and of TAPE."""


def with_labels(labels: str) -> Task:
    """Return secondary structure with 3 or 8 states.

    Args:
        labels (`str`): `"ss3"` (helix H, strand E, coil C) or `"ss8"` (the DSSP states G H I B E S T C).

    Raises:
        [`CorpusError`]: if there are no such labels.
    """
    if labels not in RESIDUE_CLASSES:
        raise CorpusError(f"labels must be one of {', '.join(RESIDUE_CLASSES)}, and not {labels!r}.")
    return dataclasses.replace(TASKS["secondary_structure"], target=labels, class_names=RESIDUE_CLASSES[labels])


def with_target(task: Task, target: str) -> Task:
    """Return the task with another column as its target.

    For stability this chooses the score: TAPE's and the paper's figures are of the chymotrypsin score, which TAPE's
    own files call `stability_score`, and files with both scores `stability_score_c`.
    """
    if task.name == "secondary_structure":
        return with_labels(target)
    return dataclasses.replace(task, target=target)


def own_task(
    kind: str,
    target: str,
    *,
    sequence_column: str = "sequence",
    id_column: str | None = None,
    mask_column: str | None = None,
    name: str = "own_task",
) -> Task:
    """Describe a user's own task, for [`load_own_task`].

    Args:
        kind (`str`): `"regression"`, `"classification"` or `"token_classification"`.
        target (`str`): the column with the labels. A regression has one number per protein. A class is a whole number
            or a name. Labels of residues are text of one letter each, or a list of numbers or names (in CSV: as JSON),
            in which null and -100 stand for residues that do not count.
        sequence_column (`str`, defaults to `"sequence"`): the column with the sequences.
        id_column (`str`, *optional*): the column with the ids; by default `id` if it is there, else records are
            numbered.
        mask_column (`str`, *optional*): for labels of residues, the column that says with ones and zeros which
            residues count.
        name (`str`, defaults to `"own_task"`): a name for results.

    Raises:
        [`CorpusError`]: if there is no such kind, one column is to serve for two things, or a mask is given to a task
            that has one label per protein.
    """
    if kind not in KINDS:
        raise CorpusError(f"The kind of a task must be one of {', '.join(KINDS)}, and not {kind!r}.")
    if mask_column is not None and kind != "token_classification":
        raise CorpusError(f"mask_column={mask_column!r} has no meaning for {kind}, which has one label per protein.")
    columns = [column for column in (sequence_column, target, id_column, mask_column) if column is not None]
    if len(set(columns)) != len(columns):
        raise CorpusError(f"Sequence, target, id and mask need columns of their own, but the columns are {columns}.")
    return Task(
        name=name,
        kind=kind,
        target=target,
        sequence_column=sequence_column,
        id_column=id_column,
        mask_column=mask_column,
        mask_required=mask_column is not None,
    )
