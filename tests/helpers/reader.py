"""The folder of a reader who tries what the pages show: small files and runs under the names that the pages use."""

import gzip
import json
import shutil
import subprocess
from pathlib import Path

import numpy as np
import torch

from adversarial_mlm.cli.main import main
from adversarial_mlm.data.all_records import AllRecords
from tests.helpers.foreign_encoders import BUILDERS
from tests.helpers.gym_files import HEADER, substitutions, write_csv, write_reference
from tests.helpers.pages import PROGRAM, ROOT, SHELL, Block, commands
from tests.helpers.tape_files import SPLITS, as_json, tape_record
from tests.helpers.toy_tasks import LETTERS, label_of

WILD_TYPE = "MKTAYIAKQRQISFVKSHFSRQ"
FASTA = ("my_proteins.fasta", "my.fasta", "proteins.fasta", "my_family.fasta", "uniref50.fasta")
ON_THE_HUB = {
    "facebook/esm2_t12_35M_UR50D": "esm",
    "facebook/esm2_t6_8M_UR50D": "esm",
}
"""Names of models on the Hub: folders of these names hold a miniature of the same kind."""

SMALL_RUN = {
    "max_steps": "4",
    "save_steps": "4",
    "eval_steps": "4",
    "max_eval_records": "10",
    "max_length": "64",
    "per_device_train_batch_size": "4",
    "gradient_accumulation_steps": "1",
    "warmup_steps": "1",
    "background_gate": "",
    "overwrite_output_dir": "true",
    "report": "false",
    "dataloader_num_workers": "0",
}
SMALL_NETWORKS = {"encoder": "tiny", "noiser": "tiny"}
SMALL_TASK = {"bootstrap_samples": "10"}
SMALL_TUNING = {"max_epochs": "1", "untrained": "false"}
SMALL_RECIPE = "train_data: [my_proteins.fasta]\noutput_dir: runs/mine\npreset: blind\n" + "".join(
    f"{name}: {value or '[]'}\n" for name, value in (SMALL_RUN | SMALL_NETWORKS).items() if name != "background_gate"
)
"""Options that make every run and every evaluation small, where the page does not set them itself."""


def write_files(folder: Path) -> None:
    """Write the proteins, tables and models that the pages name, into the current folder."""
    records = (ROOT / "examples" / "data" / "demo.fasta").read_text().split("\n>")[:40]
    fasta = "\n>".join(records) + "\n"
    for name in FASTA:
        (folder / name).write_text(fasta)
    for name in ("my_proteins.fasta.gz", "a.fasta.gz"):
        (folder / name).write_bytes(gzip.compress(fasta.encode()))
    weights = [
        {"id": item.id, "weights": [1.0] * len(item.sequence)} for item in AllRecords([str(folder / "my.fasta")])
    ]
    (folder / "conservation.jsonl").write_text("".join(json.dumps(row) + "\n" for row in weights))
    (folder / "wt.fasta").write_text(f">wild_type\n{WILD_TYPE}\n")
    (folder / "dms.csv").write_text("mutant,activity\nA4W,0.1\nA4W:Q9R,0.3\nK2R,1.0\nT3S,0.9\nI6V,0.8\nS13T,0.7\n")
    for name in ("my_recipe.yaml", "my.yaml"):
        (folder / name).write_text(SMALL_RECIPE)
    (folder / "examples").symlink_to(ROOT / "examples")
    _write_tables(folder)
    _write_tasks(folder / "DIR")
    _write_benchmarks(folder)
    for name, kind in ON_THE_HUB.items():
        (folder / name).mkdir(parents=True)
        model, tokenizer = BUILDERS[kind](folder / name)
        model.save_pretrained(folder / name)
        tokenizer.save_pretrained(folder / name)


def _write_tables(folder: Path) -> None:
    generator = np.random.default_rng(3)

    def rows(kind: str, target: str, number: int) -> list[dict[str, object]]:
        proteins = ["".join(generator.choice(list(LETTERS), generator.integers(8, 20))) for _ in range(number)]
        return [{"sequence": protein, target: label_of(kind, protein)} for protein in proteins]

    for name, kind, target in (
        ("my.csv", "regression", "brightness"),
        ("melting.csv", "regression", "tm"),
        ("enzymes.csv", "classification", "ec"),
    ):
        found = rows(kind, target, 60)
        lines = [f"{row['sequence']},{row[target]},{('train', 'valid', 'test')[i % 3]}" for i, row in enumerate(found)]
        (folder / name).write_text(f"sequence,{target},split\n" + "\n".join(lines) + "\n")
    for name in ("train", "valid", "test"):
        lines = [json.dumps(row) for row in rows("token_classification", "site", 12)]
        (folder / f"{name}.jsonl").write_text("\n".join(lines) + "\n")
    found = [{**row, "contacts": [[1, 7], [2, 8]]} for row in rows("regression", "tm", 6)]
    (folder / "contacts.jsonl").write_text("".join(json.dumps(row) + "\n" for row in found))


def _write_tasks(folder: Path) -> None:
    generator = np.random.default_rng(11)
    folder.mkdir()
    for task, splits in SPLITS.items():
        for split in splits:
            records = [tape_record(task, index, generator) for index in range(12)]
            plain = [{name: as_json(value) for name, value in record.items()} for record in records]
            if task == "fluorescence":  # as in TAPE, variants of one protein
                for number, record in enumerate(plain):
                    record["num_mutations"] = int(number > 0)
                    record["primary"] = WILD_TYPE[:number] + "W" * (number > 0) + WILD_TYPE[number + (number > 0) :]
            (folder / f"{task}_{split}.json").write_text(json.dumps(plain))


def _write_benchmarks(folder: Path) -> None:
    """Write an assay of ProteinGym with its reference file, and a split of FLIP."""
    write_reference(folder / "DMS_substitutions.csv", [("WT_one", "WT", "Stability", WILD_TYPE)])
    write_csv(folder / "DMS" / "WT_one.csv", HEADER, substitutions(WILD_TYPE, 20))
    sets = [("train", "")] * 14 + [("train", "True")] * 4 + [("test", "")] * 6
    rows = [[row[1], row[2], *chosen] for row, chosen in zip(substitutions(WILD_TYPE, 24), sets, strict=True)]
    write_csv(
        folder / "FLIP" / "gb1" / "splits" / "two_vs_rest.csv", ["sequence", "target", "set", "validation"], rows
    )


def make_runs(folder: Path) -> None:
    """Train the runs that the pages name, in the current folder: a noiser's (`mine`, `demo`), and random masks."""
    small = _given(SMALL_RUN | SMALL_NETWORKS, [])
    noiser = ["--preset", "blind", "--output_dir", "runs/mine"]
    assert main(["train", "pretrain", "--train_data", "my.fasta", *noiser, *small]) == 0
    shutil.copytree(folder / "runs" / "mine", folder / "runs" / "demo")
    shutil.copytree(folder / "runs" / "mine", folder / "runs" / "better")
    random = ["--output_dir", "runs/baseline"]
    assert main(["train", "pretrain", "--train_data", "my.fasta", *random, *small]) == 0


def _given(options: dict[str, str], words: list[str]) -> list[str]:
    return [word for name, value in options.items() if f"--{name}" not in words for word in (f"--{name}", value)]


def made_small(words: list[str]) -> list[str]:
    """The words of an `adv-mlm` command with options that make it take a second or two."""
    if "--help" in words or "--list" in words:
        return words
    if words[0] == "train":
        if words[1].endswith(".yaml"):
            return [*words, *_given({"max_steps": "5" if "--resume_from_checkpoint" in words else "2"}, words)]
        networks = {} if "--model_name_or_path" in words else SMALL_NETWORKS
        return [*words, *_given(SMALL_RUN | networks, words)]
    if words[0] == "evaluate":
        return [*words, *_given(SMALL_TASK | (SMALL_TUNING if "finetune" in words else {}), words)]
    return words


def run(block: Block, names: dict) -> int:
    """Run a block in the current folder: commands of this package in this process, others by bash, and Python code.

    Args:
        block: The block.
        names: Variables of the Python code; those of one page continue one another.

    Returns:
        Number of commands and snippets that ran.
    """
    torch.manual_seed(0)
    done = 0
    if block.language == "python":
        exec(compile(block.text, str(block), "exec"), names)
        done += 1
    elif block.language in SHELL:
        for line in block.text.replace("\\\n", " ").splitlines():
            (words,) = commands(line) or [[]]
            if words[:1] == [PROGRAM]:
                assert main(made_small(words[1:])) == 0, line
            elif words:
                assert words[0] in ("printf", "mkdir"), f"{words[0]} is not run: mark the block"
                subprocess.run(["bash", "-c", line], check=True)
            done += bool(words)
    return done
