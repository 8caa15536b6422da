"""Cards of whole runs, from a recipe to a folder."""

import re

import pytest
from huggingface_hub import ModelCard

from adversarial_mlm.recipes.run import pretrain


def card_in(folder) -> ModelCard:
    return ModelCard.load(folder / "README.md")


@pytest.mark.slow
def test_the_same_run_elsewhere_and_resumed_has_the_same_card(run, make_recipe, tmp_path):
    saves = {"save_strategy": "steps", "save_steps": 2}
    first = run(output_dir=tmp_path / "a" / "run", **saves)
    second = tmp_path / "b" / "run"
    pretrain(make_recipe(output_dir=second, **saves))
    for name in ("README.md", "checkpoint-4/README.md"):
        (second / name).unlink()
    assert run(output_dir=second, resume_from_checkpoint=second / "checkpoint-2", **saves) == second
    for name in ("README.md", "checkpoint-2/README.md", "checkpoint-4/README.md"):
        cards = [(folder / name).read_text() for folder in (first, second)]
        assert cards[0] == cards[1]
        assert str(tmp_path) not in cards[0] and tmp_path.name not in cards[0]
        assert "residues read" in cards[0]
    assert "2 of 4 encoder updates" in (first / "checkpoint-2" / "README.md").read_text()


@pytest.mark.slow
def test_the_card_of_the_demo_counts_its_proteins(run):
    card = card_in(run(data_license="CC BY 4.0:\nUniProt", model_license="Apache-2.0", learning_rate=2e-3))
    for told in (
        "- sources: `examples/data/demo.fasta`\n", "2,240 records read, 2,240 kept", "training set: 1,814 proteins",
        "licence of the data: CC BY 4.0: UniProt\n", "licence of these weights: apache-2.0\n", "`holdout_seed` 0",
        "60 of 226 proteins", "60 of 200 proteins", "from `examples/data/demo_clusters.tsv`",
        "10 % of each remaining family",
        "run_adv_mlm.py examples/recipes/demo.yaml --output_dir run --cache_dir cache --max_steps 4",
        "say little about new families; use those of *families*", "preset `tiny`",
    ):  # fmt: skip
        assert told in card.text, told
    assert re.search(r"\| `learning_rate` +\| 0\.002 +\|", card.text) and "output_dir`" not in card.text
    assert card.data.license == "apache-2.0" and len(card.data.eval_results) == 6


@pytest.mark.slow
def test_what_was_dropped_and_taken_out_is_counted(run, tmp_path, proteins):
    records = [*proteins[:40], "MK", "MKTAY*", "mktayiakqrqis-j"]
    (tmp_path / "train.fasta").write_text("".join(f">{i}\n{s}\n" for i, s in enumerate(records)))
    (tmp_path / "near.fasta").write_text("".join(f">{i}\n{s}\n" for i, s in enumerate(proteins[:3])))
    card = card_in(run(
        train_data=tmp_path / "train.fasta", validation_data=f"near={tmp_path / 'near.fasta'}", holdout_random=0.1,
        holdout_families=0, holdout_members=0, cluster_table="", background_gate="", masking="random", data_license="",
    ))  # fmt: skip
    for told in (
        "- sources: `train.fasta`\n", "43 records read, 41 kept; 2 dropped as too short (fewer than 10 residues)",
        "1 with gaps", "1 with unknown residues (1 residue)", "identical to a protein of the held-out set *near*",
        "`near.fasta`: 3 records read, 3 kept", "10 % of all proteins, at random; their relatives are in",
        "*sample* was chosen at random", "only identical sequences were removed",
        "licence of the data: not given", "--validation_data near=near.fasta",
    ):  # fmt: skip
        assert told in card.text, told
    assert "noiser" not in card.text.replace("--noiser_steps 1", "") and card.data.license is None


@pytest.mark.slow
def test_of_a_stream_no_counts_are_told(run, tmp_path, proteins):
    (tmp_path / "train.fasta").write_text("".join(f">{i}\n{s}\n" for i, s in enumerate(proteins[:30])))
    card = card_in(run(
        train_data=tmp_path / "train.fasta", streaming=True, holdout_families=0, holdout_members=0, cluster_table="",
        background_gate="", eval_strategy="no",
    ))  # fmt: skip
    assert "residues in a stream of proteins.\n" in card.text and "the data were streamed" in card.text
    assert "records read" not in card.text and "No proteins were held out." in card.text
    assert "trained on a stream of proteins" in card.text and card.data.eval_results is None
