"""All metrics of a comparison as CSV, made from the content of `study.json`."""

import csv
import io

from adversarial_mlm.comparison.differences import Study


def runs_csv(study: Study) -> str:
    """Return a table with one line per arm, budget and seed, and all metrics."""
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
