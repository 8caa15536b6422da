"""The report of a comparison as Markdown, made from the content of `study.json`."""

import math
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Any

from adversarial_mlm.comparison.differences import (
    Entry,
    Study,
    by_budget,
    finetuning_deviation,
    is_task,
    mean_and_deviation,
    metric_names,
    values,
)
from adversarial_mlm.comparison.report_cells import (
    NONE,
    TASK_NAMES,
    difference_cell,
    flat,
    is_significant,
    metric_words,
    over_seeds,
    scale,
    verdict,
)
from adversarial_mlm.comparison.report_tuning import bar_section, tuning_section
from adversarial_mlm.downstream.results import PAPER
from adversarial_mlm.utils.counts import count
from adversarial_mlm.utils.tables import markdown_table

_LESS, _MORE = "below 0 is better", "above 0 is better"
_EQUAL = {
    "updates": "equal encoder updates",
    "flops": "equal FLOPs, including the noiser's",
    "seconds": "equal wall-clock time",
}
_SETS = {
    "families": "held-out families, of which no protein was used for training",
    "members": "held-out members of families that were used for training",
    "sample": "held-out random proteins",
}
_LAST_TITLE = "How do I read this report?"


def markdown(study: Study) -> str:
    """Return the whole report.

    Args:
        study (`Mapping`): The content of `study.json`.
    """
    sections = [
        _head(study),
        _conclusions(study),
        bar_section(study),
        _setup(study),
        tuning_section(study),
        *(_losses(study, budget, entries) for budget, entries in by_budget(study)),
        _differences(study, "How do the arms differ on the selection part?", _loss_metrics(study, ""), _LESS),
        _differences(
            study, "How do the arms differ on the confirmation part?", _loss_metrics(study, "confirmation_"), _LESS
        ),
        *(_paper(study, name, entries) for name, entries in by_budget(study) if name in study["task_budgets"]),
        _differences(study, "How do the arms differ on downstream tasks?", headline_metrics(study), _MORE),
        _gains(study),
        _spreads(study),
        _masks(study),
        _how_to_read(study),
    ]
    return "\n\n".join(section for section in sections if section) + "\n"


def held_out_sets(study: Study) -> list[str]:
    """Name the held-out sets."""
    return [name for name in study["proteins"] if name != "train"]


def untrained_words(study: Study) -> str:
    """Name the weights that all arms of a seed start from."""
    return "as it came" if study["common"].get("model_name_or_path") else "no pre-training"


# ---- Sections ----


def _head(study: Study) -> str:
    arms = dict.fromkeys(entry["name"] for entry in study["arms"])
    return (
        "# Comparison of masking methods\n\n"
        f"This report compares {count(len(arms), 'arm')}, that is, ways of masking residues in pre-training. "
        f"Proteins: {study['corpus'].rstrip('.')}. `examples/compare_masking.py` wrote the report. "
        f"The last section, *{_LAST_TITLE}*, explains the terms."
    )


def _setup(study: Study) -> str:
    """Proteins, options, machine and arms."""
    proteins = study["proteins"]
    rows = [
        [name, _size(sizes, "selection"), _size(sizes, "confirmation")]
        for name, sizes in proteins.items()
        if name != "train"
    ]
    division = "whole families" if study["divided_by_family"] else "sequences"
    lines = [
        "## What was compared?",
        f"{count(proteins['train']['proteins'], 'protein')} were used for training. The held-out proteins were "
        "divided by "
        f"{division} into two parts:",
        markdown_table(["held-out set", "selection part", "confirmation part"], rows),
    ]
    if study["warm_up"]:
        lines.append(
            f"All arms of a seed start from one encoder after {count(study['warm_up']['updates'], 'common update')}."
        )
    lines.append(
        "Options of all arms: "
        + ", ".join(f"`{name}: {flat(value)}`" for name, value in study["common"].items())
        + "."
    )
    if study["machine"]:
        facts = ", ".join(f"{name} {value}" for name, value in study["machine"].items())
        lines.append(f"Machine on which the cost of an update was measured: {facts}.")
    return "\n\n".join([*lines, _arms(study)])


def _size(sizes: dict[str, int], part: str) -> str:
    families = f"{part}_families"
    return f"{sizes[part]:,}" + (f" of {count(sizes[families], 'family', 'families')}" if families in sizes else "")


def _arms(study: Study) -> str:
    rows, seen = [], set()
    for entry in study["arms"]:
        if entry["name"] in seen:
            continue
        seen.add(entry["name"])
        against = entry["against"] or NONE
        if entry["unmatched"]:
            against += f" † ({entry['difference']})"
        options = ", ".join(f"`{name}: {flat(value)}`" for name, value in entry["options"].items())
        rows.append([_name(entry), entry["masks"]["words"], against, options])
    header = ["arm", "mask rate, [MASK]/keep/replace", "compared with", "options of the arm"]
    note = ""
    if any("†" in row[2] for row in rows):
        note = (
            "\n\n† not matched in mask rate or corruption mix: the choice of positions is not the only difference "
            "between the two arms."
        )
    if any(entry["removed"] for entry in study["arms"]):
        note += "\n\nArms that were removed from the recipe after they ran are still reported."
    return f"{markdown_table(header, rows)}{note}"


def _losses(study: Study, budget: str, entries: Sequence[Entry]) -> str:
    if not entries:
        return ""
    sets = held_out_sets(study)
    blocks = [f"## {_budget_title(study, budget)}"]
    for prefix, words in (("", "selection part"), ("confirmation_", "confirmation part")):
        if prefix and not any(values(entry, f"{prefix}{sets[0]}_loss") for entry in entries):
            continue  # the confirmation part was not evaluated
        metrics = _loss_metrics(study, prefix)
        heads = [text for name in sets for text in (name, f"{name}, refitted")]
        header = ["arm", "updates", "TFLOP", "min", *heads, "alarm", "left out"]
        rows = [[*_costs(entry), *(over_seeds(entry, name) for name in metrics), *_health(entry)] for entry in entries]
        if study["untrained"]:
            figures = (over_seeds({"seeds": study["untrained"]}, name) for name in metrics)
            rows.append([untrained_words(study), "0", "0", "0", *figures, NONE, NONE])
        background = {name: _background(entries, f"{prefix}{name}_background_loss") for name in sets}
        levels = ", ".join(f"{name} {value:.3f}" for name, value in background.items())
        blocks.append(
            f"Cross-entropy on random masks, {words} (background predictor: {levels}):\n\n"
            f"{markdown_table(header, rows)}"
        )
    return "\n\n".join(blocks)


def _costs(entry: Entry) -> list[str]:
    flops, seconds = (mean_and_deviation(list(values(entry, name).values()))[0] for name in ("flops", "seconds"))
    return [
        _name(entry),
        f"{entry['updates']:,}",
        NONE if math.isnan(flops) else f"{flops / 1e12:,.3g}",
        NONE if math.isnan(seconds) else f"{seconds / 60:.1f}",
    ]


def _health(entry: Entry) -> list[str]:
    metrics = [of_seed["metrics"] for of_seed in entry["seeds"]]
    diverged = sum(bool(one.get("diverged")) for one in metrics)
    alarms = sum(one.get("collapsed_at") is not None for one in metrics)
    skipped = sum(one.get("skipped_updates") or 0 for one in metrics)
    alarm = f"{alarms} of {len(metrics)}" if alarms else "no"
    return [alarm, f"{diverged} of {len(metrics)} diverged" if diverged else f"{skipped:.0f}"]


def _background(entries: Sequence[Entry], metric: str) -> float:
    return next((value for entry in entries for value in values(entry, metric).values()), math.nan)


def _conclusions(study: Study) -> str:
    """A row per pair of arms; losses on the confirmation part if it was read, else on the selection part."""
    tasks = headline_metrics(study)
    losses = [(f"confirmation_{name}_loss", f"{name}_loss") for name in held_out_sets(study)]
    columns = [*(metric for pair in losses for metric in pair), *tasks]
    found = []
    for budget, entry, _, cells in _pairs(study, columns):
        shown = {confirmed if confirmed in cells else selected for confirmed, selected in losses} | set(tasks)
        found.append((budget, _pair_name(entry), {metric: cells[metric] for metric in shown if metric in cells}))
    if not found:
        return ""
    columns = [metric for metric in columns if any(metric in cells for _, _, cells in found)]
    rows = [
        [budget, name, *(verdict(cells[metric]) if metric in cells else NONE for metric in columns)]
        for budget, name, cells in found
    ]
    note = (
        "*Better* and *worse*: p is below 0.05 after correction for the number of arms. *Unclear*: these seeds do not "
        "show a difference. In brackets: mean difference, and its 95 % interval."
    )
    if any("†" in name for _, name, _ in found):
        note += " †: the two arms also differ in mask rate or corruption mix."
    lines = [
        "## Which arms are better?",
        note,
        markdown_table(["budget", "difference", *map(_with_part, columns)], rows),
        *_gains_in_short(study),
    ]
    return "\n\n".join(lines)


def _gains_in_short(study: Study) -> list[str]:
    """One paragraph: which arms differ from the weights that they started from, on which tasks."""
    rows = [row for row in study["gains"] if row["metric"] in headline_metrics(study)]
    if not rows:
        return []
    clear = [
        f"{row['arm']} (budget {row['budget']}) is {verdict(row)} on {metric_words(row['metric'])}. "
        for row in rows
        if is_significant(row)
    ]
    unclear = f"{len(rows) - len(clear)} of {len(rows)} differences are unclear."
    return [f"Downstream tasks, compared with *{untrained_words(study)}*: {''.join(clear)}{unclear}"]


def _with_part(metric: str) -> str:
    """Name a metric together with its part of the held-out proteins."""
    selected = not is_task(metric) and not metric.startswith("confirmation_")
    return metric_words(metric) + (", selection" if selected else "")


def _pairs(study: Study, metrics: Sequence[str]) -> Iterator[tuple[str, Entry, Entry, dict[str, dict]]]:
    """Budget, arm, partner, and their differences by figure."""
    for budget, entries in by_budget(study):
        for entry in entries:
            cells = {row["metric"]: row for row in _rows_of(study, budget, entry["name"])}
            partner = next((other for other in entries if other["name"] == entry["against"]), None)
            if partner is not None and any(metric in cells for metric in metrics):
                yield budget, entry, partner, cells


def _differences(study: Study, title: str, metrics: Sequence[str], better: str) -> str:
    """Each arm minus its partner: a row for each pair and budget, a column for each metric."""
    rows = []
    for budget, entry, _, cells in _pairs(study, metrics):
        rows.append([budget, _pair_name(entry), *(difference_cell(cells.get(metric)) for metric in metrics)])
    if not rows:
        return ""
    note = f"Differences of runs with the same seed; {better}. In brackets: 95 % interval and p."
    header = ["budget", "difference", *(metric_words(metric.removeprefix("confirmation_")) for metric in metrics)]
    return f"## {title}\n\n{note}\n\n{markdown_table(header, rows)}"


def _gains(study: Study) -> str:
    """Each arm minus the weights that it started from, on downstream tasks."""
    metrics, rows = headline_metrics(study), []
    for budget, entries in by_budget(study):
        for entry in entries:
            of_arm = [row for row in study["gains"] if (row["budget"], row["arm"]) == (budget, entry["name"])]
            cells = {row["metric"]: row for row in of_arm}
            if any(metric in cells for metric in metrics):
                rows.append([budget, _name(entry), *(difference_cell(cells.get(metric)) for metric in metrics)])
    if not rows:
        return ""
    note = f"Each arm minus *{untrained_words(study)}*, with the same seed; {_MORE}. In brackets: 95 % interval and p."
    header = ["budget", "arm", *map(metric_words, metrics)]
    return f"## What did pre-training add on downstream tasks?\n\n{note}\n\n{markdown_table(header, rows)}"


def _rows_of(study: Study, budget: str, arm: str) -> list[dict[str, Any]]:
    return [row for row in study["differences"] if (row["budget"], row["arm"]) == (budget, arm)]


def _loss_metrics(study: Study, prefix: str) -> list[str]:
    return [f"{prefix}{name}{kind}" for name in held_out_sets(study) for kind in ("_loss", "_refitted_loss")]


def headline_metrics(study: Study) -> list[str]:
    """Name the metrics of the test sets in the paper's Table 2."""
    of_tasks = [
        f"{method}/{task}/{of_task['facts']['headline']}"
        for task, of_task in study["tasks"].items()
        for method in ("probe", "finetune")
    ]
    return [metric for metric in of_tasks if metric in metric_names(study)]


@dataclass
class PaperTable:
    """The paper's Table 2 with our columns added: its title, what the columns are, and its cells."""

    title: str
    note: str
    header: list[str]
    rows: list[list[str]]


def _paper(study: Study, budget: str, entries: Sequence[Entry]) -> str:
    table = paper_table(study, budget, entries)
    return "" if table is None else f"## {table.title}\n\n{table.note}\n\n{markdown_table(table.header, table.rows)}"


def paper_table(study: Study, budget: str, entries: Sequence[Entry]) -> PaperTable | None:
    """Return the paper's Table 2 with our columns added; `None` if no task was evaluated.

    Args:
        study (`Mapping`): The content of `study.json`.
        budget (`str`): A budget with downstream tasks.
        entries (`Sequence`): The study's arms under this budget.
    """
    rows, marks = [], set()
    for task, of_task in study["tasks"].items():
        for split in _splits(of_task):
            for method in ("probe", "finetune"):
                metric = f"{method}/{task}/{split}"
                ours = [over_seeds(entry, metric) for entry in entries]
                if all(cell == NONE for cell in ours):
                    continue
                untrained = over_seeds({"seeds": study["untrained"]}, metric)
                paper: tuple[str, ...] = PAPER.get((task, of_task["facts"]["target"], split), (NONE, NONE))
                if paper[0] != NONE and not of_task["facts"]["as_in_paper"]:
                    paper = tuple(f"{figure} (a)" for figure in paper)
                    marks.add("a")
                name = f"{TASK_NAMES.get(task, task)}, {split}"
                name += ", fine-tuned" if method == "finetune" else ""
                rows.append([name, *paper, *ours, untrained, _baseline_cell(of_task, metric, split)])
    if not rows:
        return None
    header = ["task", "paper: random", "paper: adversarial", *(_name(entry) for entry in entries)]
    header += [untrained_words(study), "best without an encoder"]
    note = (
        "Paper: McDermott et al. 2021, Table 2, fine-tuned encoders of 38M parameters. Our columns: the encoders "
        "above, with frozen probes unless the row says fine-tuned; mean ± standard deviation over pre-training seeds."
    )
    if marks:
        note += " (a): the paper used other data than we did."
    title = f"How do the results compare with the paper's Table 2 (budget {budget})?"
    return PaperTable(title, note, header, rows)


def _splits(of_task: dict[str, Any]) -> list[str]:
    """The headline test first."""
    first = of_task["facts"]["headline"]
    others = [name for name in of_task["facts"]["rows"] if name not in ("train", "valid", first)]
    return [first, *others]


def best_baseline(of_task: dict[str, Any], split: str) -> tuple[str, float] | None:
    """Find the best baseline without an encoder: its name and value; `None` if no baseline is defined.

    Args:
        of_task (`dict`): One entry of the study's `tasks`.
        split (`str`): The test set.
    """
    found = {
        name: splits[split]["value"]
        for name, splits in of_task["baselines"].items()
        if split in splits and splits[split]["value"] is not None
    }
    return max(found.items(), key=lambda item: item[1]) if found else None


def _baseline_cell(of_task: dict[str, Any], metric: str, split: str) -> str:
    found = best_baseline(of_task, split)
    if found is None:
        return NONE
    factor, digits, unit = scale(metric)
    return f"{found[1] * factor:.{digits}f}{unit} ({found[0]})"


def _spreads(study: Study) -> str:
    """Standard deviations over pre-training seeds, and over fine-tuning seeds of one encoder."""
    rows = []
    for metric in metric_names(study):
        factor, digits, unit = scale(metric)
        of_arms = [entry for entry in study["arms"] if len(values(entry, metric)) > 1]
        variances = [mean_and_deviation(list(values(entry, metric).values()))[1] ** 2 for entry in of_arms]
        tuning = [finetuning_deviation(entry, metric) for entry in study["arms"]]
        tuning = [one**2 for one in tuning if not math.isnan(one)]
        if not variances and not tuning:
            continue
        cells = [
            f"{math.sqrt(sum(group) / len(group)) * factor:.{digits + 1}f}{unit}" if group else NONE
            for group in (variances, tuning)
        ]
        rows.append([metric_words(metric), *cells])
    if not rows:
        return ""
    header = ["figure", "pre-training seeds", "fine-tuning seeds"]
    note = (
        "Standard deviations, pooled over arms and budgets. Pre-training seeds: between encoders, each the mean of "
        "its fine-tuning runs. Fine-tuning seeds: between the fine-tuning runs of one encoder."
    )
    return f"## How large is the spread over seeds?\n\n{note}\n\n{markdown_table(header, rows)}"


def _masks(study: Study) -> str:
    columns = {
        "share_mask": "[MASK]",
        "share_keep": "kept",
        "share_replace": "replaced",
        "entropy": "entropy of positions",
        "enrichment_max": "largest enrichment",
        "mask_gap": "gap at [MASK]",
        "noiser_cosine": "cosine of half batches",
    }
    rows = [
        [_name(entry), entry["budget"], *(over_seeds(entry, name, digits=2) for name in columns)]
        for entry in study["arms"]
        if values(entry, "entropy")
    ]
    if not rows:
        return ""
    note = "Means over the last log entries of each run; ± is the standard deviation over seeds."
    header = ["arm", "budget", *columns.values()]
    return f"## What did the noisers do at the end of training?\n\n{note}\n\n{markdown_table(header, rows)}"


def _was_confirmed(study: Study) -> bool:
    return any(name.startswith("confirmation_") for name in metric_names(study))


def _how_to_read(study: Study) -> str:
    rate = 100 * float(study["common"].get("eval_mask_rate", 0.15))
    sets = [f"- *{name}*: {_SETS[name]}." for name in held_out_sets(study) if name in _SETS]
    read = "evaluated once, after all runs." if _was_confirmed(study) else "not evaluated yet."
    lines = [
        f"## {_LAST_TITLE}\n",
        *sets,
        f"- *Cross-entropy* is in nats, on {rate:g} % random [MASK]s, the same ones for every run. The *background "
        "predictor* predicts each residue's frequency, ignoring context.",
        "- *Refitted*: cross-entropy after refitting the output biases. A shifted prior does not make an encoder "
        "worse, and refitting removes it. Biases for the selection part are fitted on its other half, those for the "
        "confirmation part on the selection part. Its families may differ, and the value can then be worse: compare "
        "refitted values between arms only.",
        f"- The *selection part* was available for every choice. The *confirmation part* was {read}",
        "- *±* is the standard deviation over pre-training seeds.",
        "- *Differences* are between runs with the same seed, which start from the same weights and see the same "
        "batches, unless a noiser chooses the proteins. Intervals and p are by Student's t. p is corrected (Holm) for "
        "the number of arms compared under the budget; * marks p below 0.05. Neither is defined if all differences "
        "are equal. A pair that also belongs to an earlier budget is not repeated.",
        "- *Intervals* show how much a difference varies with the seed on these held-out proteins. They do not show "
        "how much it varies with the proteins. If a part has few families, the parts can differ by more than an "
        "interval.",
        "- *TFLOP* counts matrix products, forward and backward, with the noiser's and without padding. *min* is the "
        "time of the updates, on a machine that may have had other work. Budgets of equal seconds use costs that were "
        "measured before the first run, one step of each arm in turn.",
        "- *alarm*: runs with a collapse alarm. *left out*: updates that were skipped because the loss or a gradient "
        "was not finite.",
    ]
    if any(values(entry, "entropy") for entry in study["arms"]):
        lines.append(
            "- *Entropy of positions*: 1 if all positions are equally likely. *Largest enrichment*: the residue that "
            "the noiser prefers most, relative to its frequency. *Gap at [MASK]*: loss at the noiser's [MASK]s minus "
            "loss at random ones. *Cosine of half batches*: agreement of the noiser's gradients on two half batches."
        )
    return "\n".join(lines)


def _budget_title(study: Study, budget: str) -> str:
    facts = study["budgets"][budget]
    amount = count(facts["updates"], "update") if "updates" in facts else ""
    if "like" in facts:
        amount = f"as {facts['like']} takes for {amount}"
    elif not amount:
        amount = f"{facts[facts['equal']]:,.3g} {'FLOP' if facts['equal'] == 'flops' else 's'}"
    return f"How good are the encoders under budget {budget}? ({_EQUAL[facts['equal']]}, {amount})"


def _pair_name(entry: Entry) -> str:
    return f"{entry['name']} − {entry['against']}{' †' if entry['unmatched'] else ''}"


def _name(entry: Entry) -> str:
    return entry["name"] + (" (no longer in the recipe)" if entry.get("removed") else "")
