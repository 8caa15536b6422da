"""Results of ProteinGym: records as of other tasks, averages over assays, and the printed table."""

from collections.abc import Sequence
from typing import Any

from adversarial_mlm.downstream.proteingym.files import CATEGORIES
from adversarial_mlm.downstream.proteingym.metrics import METRICS, Averages, average
from adversarial_mlm.downstream.results import as_plain, method_cell
from adversarial_mlm.downstream.scoring import FEW_GROUPS
from adversarial_mlm.utils.hashing import fingerprint_of_parts
from adversarial_mlm.utils.tables import text_table

TASK = "proteingym"
SPLIT = "test"
UNIT = "proteins (UniProt ids) within each function"

_MOST_LISTED = 30  # assays in the printed table
_HEADERS = ("Spearman", "AUC", "MCC", "NDCG", "top 10 %")

Record = dict[str, Any]


def base_record(target: str, method: str, model: str, settings: dict[str, Any], notes: list[str]) -> Record:
    """Return what all records have, as [`record`] of a task does."""
    return {
        "task": TASK,
        "kind": "regression",
        "target": target,
        "method": method,
        "model": model,
        "settings": settings,
        "seeds": [],
        "is_baseline": False,
        "notes": notes,
        "as_in_paper": False,
        "headline": {SPLIT: "spearman"},
    }


def line_of(record: Record) -> str:
    """Return a line for the log about an assay that was scored."""
    figures = record["figures"][SPLIT]
    spearman, area = (_cell(figures[name]["value"]) for name in ("spearman", "auc"))
    variants = f"{record['data']['rows'][SPLIT]:,} variants"
    return f"{record['target']}: {variants}, Spearman {spearman}, AUC {area} ({record['seconds']:.1f} s)"


def averages(records: Sequence[Record], reference: str, missing: list[str], samples: int) -> list[Record]:
    """Return a record with the averages of the substitutions, and one of the indels, as far as there are such.

    Args:
        records (`Sequence[dict]`): The records of the assays.
        reference (`str`): The name of the reference file.
        missing (`list[str]`): Assays of the reference file that have no table.
        samples (`int`): Number of resamples for the intervals; 0 for none.
    """
    found = []
    for indels, target in ((False, "substitutions"), (True, "indels")):
        chosen = [record for record in records if record["assay"]["indels"] == indels]
        if not chosen:
            continue
        proteins, functions = ([record["assay"][name] for record in chosen] for name in ("protein", "function"))
        by_metric: dict[str, Averages] = {}
        for name in METRICS:
            by_metric[name] = average(_values(chosen, name), proteins, functions, bootstrap_samples=samples)
        number = f"{len(missing):,} of {len(missing) + len(records):,}"
        notes = [f"{number} assays of {reference} have no table and are left out."] if missing else []
        groups = sum(by_metric["spearman"].proteins.values())
        found.append(
            as_plain(
                {
                    **base_record(target, chosen[0]["method"], chosen[0]["model"], chosen[0]["settings"], notes),
                    "data": {
                        "files": {SPLIT: reference},
                        "rows": {SPLIT: len(chosen)},
                        "fingerprints": {
                            SPLIT: fingerprint_of_parts(r["data"]["fingerprints"][SPLIT] for r in chosen)
                        },
                    },
                    "figures": {
                        SPLIT: {
                            name: {
                                **{end: getattr(of_metric, end) for end in ("value", "low", "high")},
                                "rows": sum(of_metric.proteins.values()),
                                "by_function": of_metric.by_function,
                                **_by_category(chosen, name),
                            }
                            for name, of_metric in by_metric.items()
                        }
                    },
                    "resampled": {SPLIT: {"unit": UNIT, "groups": groups}},
                }
            )
        )
    return found


def _by_category(records: Sequence[Record], name: str) -> dict[str, dict[str, float]]:
    """Return averages of a metric over proteins by taxon, and by the depth of the alignment."""
    found = {}
    for column, key in zip(CATEGORIES, ("by_taxon", "by_msa_depth"), strict=True):
        of_column = [record for record in records if column in record["assay"]["categories"]]
        categories = [record["assay"]["categories"][column] for record in of_column]
        proteins = [record["assay"]["protein"] for record in of_column]
        averages_of = average(_values(of_column, name), proteins, categories, bootstrap_samples=0)
        found[key] = averages_of.by_function
    return found


def _values(records: Sequence[Record], name: str) -> list[float]:
    values = [record["figures"][SPLIT][name]["value"] for record in records]
    return [float("nan") if value is None else value for value in values]


def gym_table(records: Sequence[Record]) -> str:
    """Format the averages by function and over functions; also the assays, if they are at most 30."""
    parts = []
    for summary in (record for record in records if "resampled" in record):
        indels = summary["target"] == "indels"
        assays = [record for record in records if record.get("assay", {}).get("indels") == indels]
        figures = summary["figures"][SPLIT]
        rows: list[tuple[str, ...]] = []
        if len(assays) <= _MOST_LISTED:
            rows += [
                (record["target"], "", "", *(_cell(record["figures"][SPLIT][name]["value"]) for name in METRICS))
                for record in assays
            ]
        for function in sorted({record["assay"]["function"] for record in assays}):
            of_function = [record["assay"]["protein"] for record in assays if record["assay"]["function"] == function]
            cells = (_cell(figures[name]["by_function"].get(function)) for name in METRICS)
            rows.append((function, f"{len(of_function):,}", f"{len({*of_function}):,}", *cells))
        proteins = f"{len({record['assay']['protein'] for record in assays}):,}"
        overall = (_cell(figures[name]["value"]) for name in METRICS)
        rows.append(("average over functions", f"{len(assays):,}", proteins, *overall))
        title = f"ProteinGym, {summary['target']}: {method_cell(summary)}"
        lines = [title, text_table(("function", "assays", "proteins", *_HEADERS), rows)]
        parts.append("\n".join([*lines, *_footnotes(summary, assays)]))
    return "\n\n".join(parts)


def _footnotes(summary: Record, assays: Sequence[Record]) -> list[str]:
    figure, groups = summary["figures"][SPLIT]["spearman"], summary["resampled"][SPLIT]["groups"]
    lines = []
    if figure["low"] is not None:
        few = "; few groups, so it is rough" if groups < FEW_GROUPS else ""
        lines.append(
            f"  Spearman's 95 % interval: {_cell(figure['low'])} to {_cell(figure['high'])}, from resampled {UNIT} "
            f"({groups:,}){few}"
        )
    compared = [record["against"][SPLIT]["beaten"] for record in assays if "against" in record]
    if compared:
        lines.append(
            f"  Spearman above that of the number of substitutions (fewer is better): {sum(compared):,} of "
            f"{len(compared):,} assays in which it differs"
        )
    without = sum(sum(record["left_out"].values()) for record in assays)
    if without:
        lines.append(f"  {without:,} variants have no score; the log and results.json say why")
    return lines


def _cell(value: float | None) -> str:
    return "not defined" if value is None else f"{value:.3f}"
