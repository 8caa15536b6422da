"""A study as Markdown and CSV, made from its plain data alone."""

import csv
import io
import math
from collections.abc import Iterator, Sequence
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
    is_told_apart,
    metric_words,
    over_seeds,
    scale,
    table,
    verdict,
)
from adversarial_mlm.downstream.results import PAPER

_LESS, _MORE = "below 0 is better", "above 0 is better"
_EQUAL = {
    "updates": "equal updates of the encoder",
    "flops": "equal FLOPs, the noiser's included",
    "seconds": "equal wall-clock time",
}


def markdown(study: Study) -> str:
    """The whole report.

    Args:
        study (`Mapping`): What `study.json` holds.
    """
    sections = [
        _head(study),
        _in_short(study),
        _arms(study),
        *(_losses(study, budget, entries) for budget, entries in by_budget(study)),
        _differences(study, "Differences, selection part", _loss_metrics(study, ""), _LESS),
        _differences(study, "Differences, confirmation part", _loss_metrics(study, "confirmation_"), _LESS),
        *(_paper(study, name, entries) for name, entries in by_budget(study) if name in study["task_budgets"]),
        _differences(study, "Differences on downstream tasks", headline_metrics(study), _MORE),
        _gains(study),
        _spreads(study),
        _masks(study),
        _how_to_read(study),
    ]
    return "\n\n".join(section for section in sections if section) + "\n"


def runs_csv(study: Study) -> str:
    """Every run under every budget, a line each, with all of its figures."""
    entries = [*study["arms"], {"name": "untrained", "budget": "", "seeds": study["untrained"]}]
    names = list(dict.fromkeys(name for entry in entries for seed in entry["seeds"] for name in seed["metrics"]))
    file = io.StringIO()
    writer = csv.writer(file, lineterminator="\n")
    writer.writerow(["arm", "budget", "seed", *names])
    for entry in entries:
        for of_seed in entry["seeds"]:
            cells = [of_seed["metrics"].get(name) for name in names]
            cells = [" ".join(map(str, cell)) if isinstance(cell, list) else cell for cell in cells]
            writer.writerow([entry["name"], entry["budget"], of_seed["seed"], *cells])
    return file.getvalue()


def held_out_sets(study: Study) -> list[str]:
    """The names of the held-out sets."""
    return [name for name in study["proteins"] if name != "train"]


def untrained_words(study: Study) -> str:
    """What the weights are called that all arms of a seed begin with."""
    return "as it came" if study["common"].get("model_name_or_path") else "no pre-training"


# ---- Sections ----


def _head(study: Study) -> str:
    proteins = study["proteins"]
    parts = "; ".join(
        f"{name} {_size(sizes, 'selection')} for selection and {_size(sizes, 'confirmation')} for confirmation"
        for name, sizes in proteins.items()
        if name != "train"
    )
    lines = [
        "# A comparison of ways of masking",
        f"{study['corpus'].rstrip('.')}. {proteins['train']['proteins']:,} proteins to train on; held out: {parts}, "
        + ("divided by whole families." if study["divided_by_family"] else "divided by sequences."),
    ]
    if study["warm_up"]:
        lines.append(
            f"All arms of a seed start from one encoder after {study['warm_up']['updates']:,} common updates."
        )
    lines.append(
        "Options of all arms: "
        + ", ".join(f"`{name}: {flat(value)}`" for name, value in study["common"].items())
        + "."
    )
    if study["machine"]:
        facts = ", ".join(f"{name} {value}" for name, value in study["machine"].items())
        lines.append(f"Costs of updates were measured on: {facts}.")
    return "\n\n".join(lines)


def _size(sizes: dict[str, int], part: str) -> str:
    families = f"{part}_families"
    return f"{sizes[part]:,}" + (f" of {sizes[families]:,} families" if families in sizes else "")


def _arms(study: Study) -> str:
    rows, seen = [], set()
    for entry in study["arms"]:
        if entry["name"] in seen:
            continue
        seen.add(entry["name"])
        against = entry["against"] or NONE
        if entry["unmatched"]:
            against += f" †: {entry['difference']}"
        options = ", ".join(f"`{name}: {flat(value)}`" for name, value in entry["options"].items())
        rows.append([_name(entry), entry["masks"]["words"], against, options])
    header = ["arm", "masked, and [MASK]/keep/replace", "compared with", "its options"]
    note = ""
    if any("†" in row[2] for row in rows):
        note = "\n\n† not matched in mask rate or way of masking: what differs is not the game's alone."
    if any(entry["removed"] for entry in study["arms"]):
        note += "\n\nArms that were taken out of the recipe after they ran are reported as the others are."
    return f"## Arms\n\n{table(header, rows)}{note}"


def _losses(study: Study, budget: str, entries: Sequence[Entry]) -> str:
    if not entries:
        return ""
    sets = held_out_sets(study)
    blocks = [f"## {_budget_title(study, budget)}"]
    for prefix, words in (("", "selection part"), ("confirmation_", "confirmation part")):
        if prefix and not any(values(entry, f"{prefix}{sets[0]}_loss") for entry in entries):
            continue  # it was not read
        metrics = _loss_metrics(study, prefix)
        heads = [text for name in sets for text in (name, f"{name}, refitted")]
        header = ["arm", "updates", "TFLOP", "min", *heads, "alarm", "left out"]
        rows = [[*_costs(entry), *(over_seeds(entry, name) for name in metrics), *_health(entry)] for entry in entries]
        if study["untrained"]:
            figures = (over_seeds({"seeds": study["untrained"]}, name) for name in metrics)
            rows.append([untrained_words(study), "0", "0", "0", *figures, NONE, NONE])
        background = {name: _background(entries, f"{prefix}{name}_background_loss") for name in sets}
        told = ", ".join(f"{name} {value:.3f}" for name, value in background.items())
        blocks.append(
            f"Cross-entropy on random masks, {words} (background predictor: {told})\n\n{table(header, rows)}"
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


def _in_short(study: Study) -> str:
    """What can be told from the study: a line for each pair, of the confirmation part where it was read."""
    tasks = headline_metrics(study)
    losses = [(f"confirmation_{name}_loss", f"{name}_loss") for name in held_out_sets(study)]
    lines = []
    for budget, entry, _, cells in _pairs(study, [*(name for pair in losses for name in pair), *tasks]):
        names = [confirmed if confirmed in cells else selected for confirmed, selected in losses]
        told = "; ".join(f"{_in_words(name)} {verdict(cells[name])}" for name in (*names, *tasks) if name in cells)
        mark = f" † ({entry['difference']})" if entry["unmatched"] else ""
        lines.append(f"- **{entry['name']}** beside {entry['against']}{mark}, budget {budget}: {told}.")
    if not lines:
        return ""
    lines += _gains_in_short(study)
    note = "*Better* and *worse* are differences with p below 0.05, corrected for the number of arms; all others are"
    return f"## In short\n\n{note} not told apart by these seeds.\n\n" + "\n".join(lines)


def _gains_in_short(study: Study) -> list[str]:
    """One line: which arms are told apart from the weights that they began with, on which tasks."""
    rows = [row for row in study["gains"] if row["metric"] in headline_metrics(study)]
    if not rows:
        return []
    words = [f"{row['arm']} ({row['budget']}), {metric_words(row['metric'])} {verdict(row)}" for row in rows]
    told = [said for row, said in zip(rows, words, strict=True) if is_told_apart(row)]
    others = f"{len(rows) - len(told)} of {len(rows)} not told apart"
    return [f"- Downstream, beside *{untrained_words(study)}*: {'; '.join([*told, others])}."]


def _in_words(metric: str) -> str:
    """The same for a line of text, where no title tells the part."""
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
    """Every arm minus its partner: a row for each pair and budget, a column for each figure."""
    rows = []
    for budget, entry, _, cells in _pairs(study, metrics):
        name = f"{entry['name']} − {entry['against']}{' †' if entry['unmatched'] else ''}"
        rows.append([budget, name, *(difference_cell(cells.get(metric)) for metric in metrics)])
    if not rows:
        return ""
    note = f"Of runs with the same seed; {better}. In brackets 95 % interval and p, see below."
    header = ["budget", "difference", *(metric_words(metric.removeprefix("confirmation_")) for metric in metrics)]
    return f"## {title}\n\n{note}\n\n{table(header, rows)}"


def _gains(study: Study) -> str:
    """Every arm minus the weights that it began with, on downstream tasks."""
    metrics, rows = headline_metrics(study), []
    for budget, entries in by_budget(study):
        for entry in entries:
            of_arm = [row for row in study["gains"] if (row["budget"], row["arm"]) == (budget, entry["name"])]
            cells = {row["metric"]: row for row in of_arm}
            if any(metric in cells for metric in metrics):
                rows.append([budget, _name(entry), *(difference_cell(cells.get(metric)) for metric in metrics)])
    if not rows:
        return ""
    note = f"Every arm minus *{untrained_words(study)}*, with the same seed; {_MORE}. In brackets as above."
    header = ["budget", "arm", *map(metric_words, metrics)]
    return f"## What pre-training gave to downstream tasks\n\n{note}\n\n{table(header, rows)}"


def _rows_of(study: Study, budget: str, arm: str) -> list[dict[str, Any]]:
    return [row for row in study["differences"] if (row["budget"], row["arm"]) == (budget, arm)]


def _loss_metrics(study: Study, prefix: str) -> list[str]:
    return [f"{prefix}{name}{kind}" for name in held_out_sets(study) for kind in ("_loss", "_refitted_loss")]


def headline_metrics(study: Study) -> list[str]:
    """The figures of the tests in the paper's Table 2."""
    of_tasks = [
        f"{method}/{task}/{of_task['facts']['headline']}"
        for task, of_task in study["tasks"].items()
        for method in ("probe", "finetune")
    ]
    return [metric for metric in of_tasks if metric in metric_names(study)]


def _paper(study: Study, budget: str, entries: Sequence[Entry]) -> str:
    """The paper's Table 2, with our columns beside the paper's."""
    rows, marks = [], set()
    for task, of_task in study["tasks"].items():
        for split in _splits(of_task):
            for method in ("probe", "finetune"):
                metric = f"{method}/{task}/{split}"
                ours = [over_seeds(entry, metric) for entry in entries]
                if all(cell == NONE for cell in ours):
                    continue
                untrained = over_seeds({"seeds": study["untrained"]}, metric)
                paper = PAPER.get((task, of_task["facts"]["target"], split), (NONE, NONE))
                if paper[0] != NONE and not of_task["facts"]["as_in_paper"]:
                    paper = tuple(f"{figure} (a)" for figure in paper)
                    marks.add("a")
                name = f"{TASK_NAMES.get(task, task)}, {split}"
                name += ", fine-tuned" if method == "finetune" else ""
                rows.append([name, *paper, *ours, untrained, _baseline_cell(of_task, metric, split)])
    if not rows:
        return ""
    header = ["task", "paper: random", "paper: adversarial", *(_name(entry) for entry in entries)]
    header += [untrained_words(study), "best without an encoder"]
    note = (
        "The paper's columns: McDermott et al. 2021, encoders of 38M parameters, fine-tuned. Ours: frozen probes "
        "unless a row says fine-tuned, of the encoders above; mean ± standard deviation over pre-training seeds."
    )
    if marks:
        note += " (a): the paper's figure is of other data than ours."
    return f"## The paper's Table 2, budget {budget}\n\n{note}\n\n{table(header, rows)}"


def _splits(of_task: dict[str, Any]) -> list[str]:
    """The headline test first."""
    first = of_task["facts"]["headline"]
    others = [name for name in of_task["facts"]["rows"] if name not in ("train", "valid", first)]
    return [first, *others]


def best_baseline(of_task: dict[str, Any], split: str) -> tuple[str, float] | None:
    """The best that can be had of a test without an encoder: its name and value; `None` where nothing is defined.

    Args:
        of_task (`dict`): A task of a study's `tasks`.
        split (`str`): The test.
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
    """Where chance comes from: pre-training seeds, and fine-tuning seeds within an encoder."""
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
        "Standard deviations, pooled over arms and budgets: between encoders of different pre-training seeds (each "
        "the mean of its fine-tuning runs), and between fine-tuning runs of one encoder."
    )
    return f"## Spread\n\n{note}\n\n{table(header, rows)}"


def _masks(study: Study) -> str:
    columns = {
        "share_mask": "[MASK]",
        "share_keep": "kept",
        "share_replace": "replaced",
        "entropy": "entropy of places",
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
    note = "What the noisers did at the end of training, means of the last entries of the logs."
    return f"## The noisers' masks\n\n{note}\n\n{table(['arm', 'budget', *columns.values()], rows)}"


def _was_confirmed(study: Study) -> bool:
    return any(name.startswith("confirmation_") for name in metric_names(study))


def _how_to_read(study: Study) -> str:
    rate = 100 * float(study["common"].get("eval_mask_rate", 0.15))
    return "\n".join(
        [
            "## How to read this\n",
            f"- Cross-entropy is that of {rate:g} % random [MASK]s, in nats, the same ones for every run. "
            "*Refitted*: with output biases fitted anew, as a shifted prior is not a worse encoder: for the selection "
            "part on the other half of it, for the confirmation part on the selection part. There the families may be "
            "others and the figure then worse; compare it between arms alone.",
            "- The selection part was there for every look and choice; the confirmation part "
            + ("was read once, after all runs." if _was_confirmed(study) else "was not read yet."),
            "- ± is the standard deviation over pre-training seeds.",
            "- Differences are of runs with the same seed, which begin with the same weights and see the same "
            "batches. Intervals and p are by Student's t; p allows (Holm) for the number of arms that are compared "
            "under the budget, and * is below 0.05. Where all differences are the same neither is defined. A pair "
            "whose runs are both those of an earlier budget is not repeated.",
            "- Intervals tell how much a difference changes with the seed, on these held-out proteins, and not how "
            "much with the proteins: where the parts have few families they can differ by more than an interval.",
            "- FLOPs are counted: matrix products of forward and backward passes, the noiser's included, padding left "
            "out. Minutes are what the updates took, whatever else the machine did; budgets of equal seconds are of "
            "costs that were measured in turns before the first run.",
            "- *Alarm*: runs in which the alarm for a collapse rang. *Left out*: updates that were not finite.",
        ]
    )


def _budget_title(study: Study, budget: str) -> str:
    facts = study["budgets"][budget]
    amount = f"{facts['updates']:,} updates" if "updates" in facts else ""
    if "like" in facts:
        amount = f"what {facts['like']} takes for {amount}"
    elif not amount:
        amount = f"{facts[facts['equal']]:,.3g} {'FLOP' if facts['equal'] == 'flops' else 's'}"
    return f"Budget {budget}: {_EQUAL[facts['equal']]}, {amount}"


def _name(entry: Entry) -> str:
    return entry["name"] + (" (no longer in the recipe)" if entry.get("removed") else "")
