"""How a card writes paths, commands and options."""

from dataclasses import replace

import pytest

from adversarial_mlm import AdversarialMLMTrainingArguments
from adversarial_mlm.saving.model_card.text import changed_options, command_line, is_hub_name, table, without_paths
from adversarial_mlm.saving.model_card.training import launch_command


@pytest.mark.parametrize(
    ("text", "told"),
    [
        ("/home/bob/data/a.fasta", "a.fasta"),
        ("near=/home/bob/my data/a.fasta", "near=a.fasta"),
        ("~/a.fasta", "a.fasta"),
        ("~bob/a.fasta", "a.fasta"),
        (r"C:\Users\bob\a.fasta", "a.fasta"),
        ("/data/*.fasta.gz", "*.fasta.gz"),
        ("/home/bob/run/", "run"),
        ('{"a": "/home/bob/x", "b": 1}', '{"a": "x", "b": 1}'),
        ("data/a.fasta", "data/a.fasta"),
        ("../a.fasta", "../a.fasta"),
        ("owner/name", "owner/name"),
        ("CC BY 4.0 / MIT", "CC BY 4.0 / MIT"),
        ("see https://example.org/terms", "see https://example.org/terms"),
    ],
)
def test_of_an_absolute_path_the_name_alone_is_told(text, told):
    assert without_paths(text) == told


def test_a_command_has_neither_tokens_nor_paths_nor_the_resumption():
    words = [
        "/home/bob/run.py",
        "recipe.yaml",
        "--hub_token",
        "hf_a",
        "--push_token=hf_b",
        "--output_dir",
        "/tmp/out dir",
    ]
    words += ["--resume_from_checkpoint", "latest", "--seed", "1", "--resume_from_checkpoint=/tmp/checkpoint-2"]
    command = command_line([*words, "--validation_data=near=/x/a.fasta", "b.fasta"])
    assert command == (
        "run.py recipe.yaml --hub_token ... --push_token=... --output_dir 'out dir' --seed 1 "
        "--validation_data=near=a.fasta b.fasta"
    )


def test_without_a_script_there_is_no_command():
    assert command_line(["-c"]) is None


def test_arguments_that_nobody_set_are_not_told(tmp_path):
    args = AdversarialMLMTrainingArguments(
        output_dir=str(tmp_path), use_cpu=True, hub_token="hf_a", seed=3, adversarial_share=["0@0", "1@9"],
        lr_scheduler_kwargs={"num_cycles": 2}, lr_scheduler_type="cosine", logging_nan_inf_filter=True,
    )  # fmt: skip
    assert changed_options(args) == {
        "use_cpu": "true", "seed": "3", "adversarial_share": "0@0 1@9", "lr_scheduler_kwargs": '{"num_cycles": 2}',
        "lr_scheduler_type": "cosine", "logging_nan_inf_filter": "true",
    }  # fmt: skip


def test_a_table_is_aligned_and_its_cells_stay_cells():
    assert table(("a", "figure"), [("x|y\nz", "1"), ("", "1.25")], numbers=True).split("\n") == [
        "| a      | figure |",
        "| ------ | -----: |",
        "| x\\|y z |      1 |",
        "|        |   1.25 |",
    ]


def test_a_name_on_the_hub_is_not_a_path(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    (tmp_path / "runs" / "a").mkdir(parents=True)
    names = ["Rostlab/prot_bert", "bert-base-uncased", "runs/a", "runs/b", "/runs/b", "./b", "a/b/c", ""]
    assert [is_hub_name(name) for name in names] == [True, True, False, True, False, False, False, False]


def test_without_a_launcher_or_with_one_process_the_command_is_the_one_of_the_package(make_facts):
    facts = make_facts(command="-m adversarial_mlm train demo --max_steps 4")
    assert launch_command(facts) == "adv-mlm train demo --max_steps 4"
    several = replace(facts, environment=replace(facts.environment, processes=2))
    assert launch_command(several).endswith("--num_processes 2 -m adversarial_mlm train demo --max_steps 4")


@pytest.mark.parametrize(
    ("processes", "mixed", "by_launcher", "launcher"),
    [
        (1, "no", False, "accelerate launch --num_processes 1"),
        (2, "no", False, "accelerate launch --multi_gpu --num_processes 2"),
        (1, "bf16", False, "accelerate launch --num_processes 1"),
        (1, "bf16", True, "accelerate launch --num_processes 1 --mixed_precision bf16"),
    ],
)
def test_the_launcher_is_told_what_it_was_told(make_facts, processes, mixed, by_launcher, launcher):
    facts = make_facts(command="run.py a.yaml")
    here = replace(facts.environment, processes=processes, mixed_precision=mixed, launcher_sets_precision=by_launcher)
    assert launch_command(replace(facts, environment=here)) == f"{launcher} run.py a.yaml"
