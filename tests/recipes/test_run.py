import gc
import json
import sys
from pathlib import Path

import pytest
import torch
from transformers import AutoModelForMaskedLM, AutoTokenizer

from adversarial_mlm.cli import train
from adversarial_mlm.data import CorpusError, prepare_corpus
from adversarial_mlm.models.loading import load_encoder, load_noiser
from adversarial_mlm.recipes.recipe import parse_recipe
from adversarial_mlm.recipes.run import RecipeError, build_networks, build_trainer, evaluate_saved, load_data, pretrain
from tests.helpers.exhaustive import exhaustive


def test_a_recipe_becomes_a_checkpoint_a_card_and_a_log(make_recipe, tmp_path, proteins):
    recipe = make_recipe()
    trainer = pretrain(recipe)
    figures = evaluate_saved(recipe, trainer)
    folder = tmp_path / "run"
    for name in ("members", "families"):
        for figure in ("loss", "perplexity", "accuracy", "background_loss", "adversarial_loss", "random_loss"):
            assert f"eval_{name}_{figure}" in figures
    encoder, tokenizer = AutoModelForMaskedLM.from_pretrained(folder), AutoTokenizer.from_pretrained(folder)
    inputs = tokenizer(proteins[:2], padding=True, return_tensors="pt")
    trainer.model.eval()
    assert torch.equal(encoder(**inputs).logits, trainer.model(**inputs).logits)
    facts = json.loads((folder / "data.json").read_text())
    assert facts["cleaning"]["records_read"] == 2240
    assert facts["held_out_records"] == {"families": 60, "members": 60}
    assert "eval_members_loss" in (folder / "metrics.jsonl").read_text().splitlines()[-1]
    card = (folder / "README.md").read_text()
    assert f"{figures['eval_members_loss']:.3f}" in card and "4 of 4 encoder updates" in card


def test_what_was_saved_scores_as_what_was_trained(make_recipe):
    recipe = make_recipe(eval_strategy="no")
    trainer = pretrain(recipe)
    trained, saved = trainer.evaluate(), evaluate_saved(recipe, trainer)
    for name, value in trained.items():
        if name.endswith(("_loss", "_accuracy", "_gap")):
            assert saved[name] == pytest.approx(value, rel=1e-5, abs=1e-6)


def test_both_arms_start_from_the_same_encoder_and_split(make_recipe):
    recipes = [make_recipe(masking=masking) for masking in ("adversarial", "random")]
    data = [load_data(recipe.data) for recipe in recipes]
    trainers = [
        build_trainer(recipe, part, *build_networks(recipe)) for recipe, part in zip(recipes, data, strict=True)
    ]
    assert data[0].train["id"] == data[1].train["id"]
    for (name, a), (_, b) in zip(*(t.model.named_parameters() for t in trainers), strict=True):
        assert torch.equal(a, b), name
    assert trainers[0].noiser is not None and trainers[1].noiser is None
    assert trainers[1].data_collator.rules.random_rate == pytest.approx(0.2)


def test_dropout_is_that_of_the_recipe(make_recipe, save_encoder):
    loaded = {"model_name_or_path": save_encoder("esm"), "encoder": ""}
    for start, asked, expected in (({}, None, 0.1), ({}, 0.0, 0.0), ({}, 0.25, 0.25), (loaded, 0.25, 0.25)):
        encoder = build_networks(make_recipe(**start, dropout=asked))[0]
        assert encoder.config.hidden_dropout_prob == encoder.config.attention_probs_dropout_prob == expected


def test_the_options_of_the_game_reach_noiser_and_rules(make_recipe):
    recipe = make_recipe(
        noiser_view="blind", noiser_backbone="conv", candidate_rate=0.5, sampler="gumbel_topk", noiser_reward="credit",
        noiser_update="reversal", learned_options=False, noiser_steps=10, encoder_steps=10,
    )  # fmt: skip
    trainer = pretrain(recipe)
    figures = evaluate_saved(recipe, trainer)
    saved = json.loads((recipe_folder(recipe) / "noiser" / "config.json").read_text())
    assert (saved["view"], saved["backbone"]) == ("blind", "conv")
    rules = trainer.data_collator.rules
    assert rules.blind and rules.candidate_rate == 0.5 and rules.sampler == "gumbel_topk" and not rules.learned_options
    assert figures["eval_members_share_mask"] == 1.0
    card = (recipe_folder(recipe) / "README.md").read_text()
    assert "- `conv` with" in card and "view `blind`" in card and "reward `credit`" in card and "reversal" in card


def recipe_folder(recipe) -> Path:
    return Path(recipe.training.output_dir)


def test_runs_with_other_seeds_are_judged_on_the_same_proteins(make_recipe):
    held_out = [load_data(make_recipe(seed=seed).data).held_out["members"]["id"] for seed in (0, 1)]
    assert held_out[0] == held_out[1]


def test_sets_with_names_and_without(make_recipe, tmp_path, proteins):
    for name, part in (
        ("a", proteins[:20]),
        ("b", proteins[20:40]),
        ("c", proteins[40:60]),
        ("train", proteins[:200]),
    ):
        (tmp_path / f"{name}.fasta").write_text("".join(f">{i}\n{s}\n" for i, s in enumerate(part)))
    recipe = make_recipe(holdout_families=0, holdout_members=0, cluster_table="")
    recipe.data.train_data = [str(tmp_path / "train.fasta")]
    recipe.data.validation_data = [f"near={tmp_path}/a.fasta", f"{tmp_path}/b.fasta", f"near={tmp_path}/c.fasta"]
    data = load_data(recipe.data)
    assert {name: len(part) for name, part in data.held_out.items()} == {"near": 40, "validation": 20}
    assert data.facts["removed_as_identical_to_near"] == 40 and data.facts["removed_as_identical_to_validation"] == 20
    assert not set(data.train["sequence"]) & set(proteins[:60])


def test_a_stream_trains_and_its_cleaning_is_counted(make_recipe, tmp_path, proteins):
    (tmp_path / "train.fasta").write_text("".join(f">{i}\n{s.lower()}\n" for i, s in enumerate(proteins[:30])))
    recipe = make_recipe(
        streaming=True,
        holdout_families=0,
        holdout_members=0,
        cluster_table="",
        background_gate="",
        eval_strategy="no",
        max_steps=8,
    )
    recipe.data.train_data = [str(tmp_path / "train.fasta")]
    trainer = pretrain(recipe)
    assert evaluate_saved(recipe, trainer) == {}
    facts = json.loads((tmp_path / "run" / "data.json").read_text())
    assert facts["cleaning"]["records_read"] == facts["cleaning"]["lower_case"] == 30


def test_a_prepared_folder_gives_bitwise_the_run_of_its_fasta(make_recipe, tmp_path, demo_fasta):
    prepare_corpus(str(demo_fasta), str(tmp_path / "prepared"), workers=1, part_bytes=50_000)
    trainers = []
    for name, source in (("direct", demo_fasta), ("prepared", tmp_path / "prepared")):
        recipe = make_recipe(output_dir=tmp_path / f"run-{name}")
        recipe.data.train_data = [str(source)]
        trainers.append(pretrain(recipe))
    for network in ("model", "noiser"):
        states = [getattr(trainer, network).state_dict() for trainer in trainers]
        assert all(torch.equal(states[0][name], states[1][name]) for name in states[0])
    facts = [json.loads((tmp_path / f"run-{name}" / "data.json").read_text()) for name in ("direct", "prepared")]
    assert {**facts[0], "train_data": 0} == {**facts[1], "train_data": 0}


@pytest.mark.parametrize(
    ("masking", "workers"), [("random", 0), ("adversarial", 0), exhaustive("adversarial", 2), exhaustive("random", 2)]
)
def test_a_stream_that_turns_out_damaged_ends_the_program_in_one_sentence(
    make_recipe, tmp_path, proteins, monkeypatch, capfd, masking, workers
):
    records = "".join(f">{i}\n{s}\n" for i, s in enumerate(proteins[:150]))
    (tmp_path / "train.fasta").write_text(records + ">bad\nMKV>worse\n")
    recipe = make_recipe(
        **{"streaming": True, "holdout_families": 0, "holdout_members": 0, "cluster_table": "", "background_gate": ""},
        **{"eval_strategy": "no", "dataloader_num_workers": workers, "masking": masking},
        **{"max_steps": 10, "per_device_train_batch_size": 30},
    )
    recipe.data.train_data = [str(tmp_path / "train.fasta")]
    monkeypatch.setattr("adversarial_mlm.recipes.recipe.parse_recipe", lambda words, program: recipe)
    assert train.start(["my.yaml"], "adv-mlm train") == 2
    gc.collect()  # the error's traceback holds the workers; those of another test would wait for them
    lines = capfd.readouterr().err.strip().splitlines()
    assert lines[-1].endswith(
        'train.fasta: record 151, which ends at line 302, has ">" inside its sequence; a line end is missing.'
    )
    assert not [line for line in lines if "Traceback" in line or "CorpusError" in line]


def test_a_gate_on_a_stream_is_refused_before_training(make_recipe, tmp_path, proteins):
    (tmp_path / "train.fasta").write_text("".join(f">{i}\n{s}\n" for i, s in enumerate(proteins[:30])))
    recipe = make_recipe(streaming=True, holdout_families=0, holdout_members=0, cluster_table="")
    recipe.data.train_data = [str(tmp_path / "train.fasta")]
    recipe.data.validation_data = [f"members={tmp_path}/train.fasta"]
    with pytest.raises(RecipeError, match="background_gate needs"):
        pretrain(recipe)


def test_a_set_may_not_take_the_name_of_another(make_recipe, demo_fasta):
    recipe = make_recipe()
    recipe.data.validation_data = [f"members={demo_fasta}"]
    with pytest.raises(RecipeError, match="a set named members"):
        load_data(recipe.data)


def test_validation_data_of_nucleotides_are_refused_unless_allowed(make_recipe, tmp_path):
    (tmp_path / "genes.fasta").write_text(">gene\nATGGCNTTAGCATACG\n")
    recipe = make_recipe()
    recipe.data.validation_data = [f"genes={tmp_path}/genes.fasta"]
    with pytest.raises(CorpusError, match="genes.fasta: .*nucleotides.*allow_nucleotides"):
        load_data(recipe.data)
    recipe.data.allow_nucleotides = True
    assert len(load_data(recipe.data).held_out["genes"]) == 1


def test_a_cluster_table_of_other_proteins_is_named(make_recipe, tmp_path):
    (tmp_path / "other.tsv").write_text("id\tcluster\nq\tc\n")
    recipe = make_recipe(cluster_table=tmp_path / "other.tsv")
    with pytest.raises(CorpusError, match=r"none of the 2,240 record ids .* is in .*other\.tsv"):
        load_data(recipe.data)


def test_no_token_reaches_a_file(make_recipe, tmp_path, monkeypatch):
    words = ["run.py", "--hub_token", "hf_secret1", "--push_token=hf_secret2", "--max_steps", "4"]
    monkeypatch.setattr(sys, "argv", words)
    recipe = make_recipe(hub_token="hf_secret1", save_strategy="steps", save_steps=4)
    evaluate_saved(recipe, pretrain(recipe))
    files = [path for path in (tmp_path / "run").rglob("*") if path.is_file()]
    assert len(files) > 15 and not [path for path in files if b"hf_secret" in path.read_bytes()]
    assert "run.py --hub_token ... --push_token=... --max_steps 4" in (tmp_path / "run" / "README.md").read_text()


def test_an_option_of_evaluation_without_held_out_proteins_is_said(make_recipe, caplog):
    nothing = {"holdout_families": 0, "holdout_members": 0, "cluster_table": ""}
    load_data(make_recipe(**nothing, max_eval_records=5, background_gate="", eval_strategy="no").data)
    assert "max_eval_records has no effect, because no proteins are held out" in caplog.text


def test_latest_resumes_the_newest_checkpoint(make_recipe):
    pretrain(make_recipe(save_strategy="steps", save_steps=2, max_steps=2))
    trainer = pretrain(make_recipe(resume_from_checkpoint="latest", max_steps=4))
    steps = [json.loads(line)["step"] for line in open(f"{trainer.args.output_dir}/metrics.jsonl")]
    assert trainer.state.global_step == 4 and min(steps) == 2 and max(steps) == 4


@pytest.mark.parametrize(
    ("changes", "words"),
    [
        ({"holdout_families": 1.5}, "holdout_families must be at least 0 and less than 1"),
        ({"holdout_seed": -1}, "holdout_seed must be at least 0"),
        ({"streaming": True}, "streaming cannot hold out proteins"),
        ({"holdout_members": 0, "holdout_families": 0.0001}, "holdout_families asks for 0 records, but the smallest"),
        ({"cluster_table": ""}, "holdout_families and holdout_members need cluster_table"),
        ({"background_gate": "strangers"}, "background_gate is strangers, but the held-out sets are"),
        ({"resume_from_checkpoint": "latest"}, "latest, but there is no checkpoint in"),
        ({"resume_from_checkpoint": "/nowhere/checkpoint-3"}, "there is no folder"),
        ({"holdout_families": 0, "holdout_members": 0}, "cluster_table is given, but"),
        ({"holdout_families": 0, "holdout_members": 0, "cluster_table": ""}, "the held-out sets are: none"),
        (
            {"holdout_families": 0, "holdout_members": 0, "cluster_table": "", "background_gate": ""},
            "eval_strategy is steps, but no proteins are held out",
        ),
        ({"output_dir": "/dev/null/run"}, "output_dir /dev/null/run cannot be written to"),
        ({"metric_for_best_model": "loss"}, "is loss, but must be one of families_loss, .*members_loss"),
        ({"metric_for_best_model": "eval_strangers_loss"}, "metric_for_best_model is eval_strangers_loss, but"),
        ({"max_length": 2}, "max_length must be at least 3"),
        ({"optim": "adamw_bnb_8bit"}, "bitsandbytes|adamw_bnb_8bit"),
        ({"encoder": "huge"}, "no encoder preset 'huge'"),
        (
            {"encoder": "tiny", "model_name_or_path": "x"},
            "encoder is tiny, the size of a new network, but model_name_or_path is",
        ),
        (
            {"noiser": "tiny", "noiser_name_or_path": "x"},
            "noiser is tiny, the size of a new network, but noiser_name_or_path is",
        ),
        ({"noiser_name_or_path": "x", "noiser": "", "masking": "random"}, "masking: random uses no noiser"),
        ({"trained_layers": 2}, "trained_layers is given, but only applies to model_name_or_path"),
        ({"model_revision": "main"}, "model_revision is given, but only applies to model_name_or_path"),
        ({"model_name_or_path": "./nowhere", "encoder": ""}, "model_name_or_path is ./nowhere, but there is no such"),
        ({"adversarial_rate": 0}, "adversarial_rate must be above 0"),
        ({"max_length": 2}, "max_length"),
        ({"temperature": 0}, "temperature must be above 0"),
        (
            {"candidate_rate": 0.5, "noiser_view": "full"},
            "candidate_rate is given, but only applies to noiser_view: blind",
        ),
        (
            {"candidate_rate": 0.1, "noiser_view": "blind"},
            "candidate_rate must be between the mask rate, 0.2",
        ),
        ({"noiser_view": "context", "noiser_backbone": "conv"}, "the view 'context' needs the backbone gru"),
        (
            {"sampler": "logistic_topk", "selection": "threshold"},
            "selection: threshold is given, but sampler is logistic_topk: use sampler: rss",
        ),
        (
            {"sampler": "gumbel_topk", "gated": False},
            "gated: false is given, but sampler is gumbel_topk: use sampler: rss",
        ),
        (
            {"sampler": "rss", "selection": "threshold", "importance_exponent": 1.0},
            "importance_exponent needs the probability",
        ),
    ],
)
def test_contradictions_are_refused_in_one_sentence(make_recipe, changes, words):
    with pytest.raises((RecipeError, CorpusError), match=words):
        pretrain(make_recipe(**changes))


# ---- networks that others have trained ----


@pytest.mark.parametrize("kind", ["prot_bert", "esm"])
def test_a_run_starts_from_any_encoder_and_goes_on(make_recipe, save_encoder, kind):
    start = {"model_name_or_path": save_encoder(kind), "encoder": "", "background_gate": ""}
    recipe = make_recipe(**start, trained_layers=1, save_strategy="steps", save_steps=2, max_steps=2)
    trainer = pretrain(recipe)
    assert evaluate_saved(recipe, trainer)["eval_members_masked_residues"] > 100
    before, _ = load_encoder(start["model_name_or_path"])
    after, _ = load_encoder(recipe.training.output_dir)
    moved = {
        n for (n, a), b in zip(before.named_parameters(), after.parameters(), strict=True) if not torch.equal(a, b)
    }
    assert moved and all(
        ".layer.2." in n or not n.startswith(f"{before.base_model_prefix}.") or "after" in n for n in moved
    )
    again = parse_recipe([f"{recipe.training.output_dir}/recipe.yaml", "--resume_from_checkpoint", "latest"])
    again.training.max_steps = 4
    assert pretrain(again).state.global_step == 4


def test_a_run_starts_from_a_trained_noiser(make_recipe, tmp_path):
    pretrain(make_recipe(output_dir=tmp_path / "first"))
    recipe = make_recipe(noiser_name_or_path=tmp_path / "first", noiser="", noiser_update="none", noiser_reward="loss",
                         noiser_steps=10, encoder_steps=10)  # fmt: skip
    noiser = pretrain(recipe).noiser
    trained = load_noiser(str(tmp_path / "first"))
    assert noiser.config.view == "blind"
    assert all(torch.equal(a, b) for a, b in zip(noiser.parameters(), trained.parameters(), strict=True))
    with pytest.raises(RecipeError, match="noiser_view is full, but the noiser in .* has blind"):
        pretrain(make_recipe(noiser_name_or_path=tmp_path / "first", noiser="", noiser_view="full"))


def test_a_checkpoint_that_does_not_fit_ends_in_one_sentence(make_recipe, tmp_path):
    pretrain(make_recipe(save_strategy="steps", save_steps=2, max_steps=2))
    (tmp_path / "run" / "checkpoint-2" / "optimizer.pt").write_bytes(b"")
    with pytest.raises(RecipeError, match="checkpoint-2 has a damaged optimizer.pt"):
        pretrain(make_recipe(resume_from_checkpoint="latest", max_steps=4))


@pytest.mark.parametrize("elsewhere", [False, True])
def test_a_refused_resume_leaves_the_folder_as_it_was(make_recipe, tmp_path, save_encoder, elsewhere):
    pretrain(make_recipe(save_strategy="steps", save_steps=2, max_steps=2))
    pretrain(make_recipe(output_dir=tmp_path / "other", save_strategy="steps", save_steps=2, max_steps=2))
    checkpoint = tmp_path / "other" / "checkpoint-2" if elsewhere else "latest"
    named = checkpoint if elsewhere else tmp_path / "run" / "checkpoint-2"

    def files():
        return {p: p.read_bytes() for p in (tmp_path / "run").rglob("*") if p.is_file()}

    before = files()
    start = {"model_name_or_path": save_encoder("prot_bert"), "encoder": "", "max_steps": 4}
    with pytest.raises(RecipeError, match=f"encoder is not set and was tiny: .*{named} cannot change it; use"):
        pretrain(make_recipe(resume_from_checkpoint=checkpoint, **start))
    assert len(before) > 15 and files() == before


def test_a_start_that_was_refused_does_not_block_the_next(make_recipe, tmp_path, proteins):
    from adversarial_mlm.data import CorpusError

    off = {
        "holdout_families": 0,
        "holdout_members": 0,
        "cluster_table": "",
        "background_gate": "",
        "eval_strategy": "no",
    }
    recipe = make_recipe(streaming=True, overwrite_output_dir=False, **off)
    (tmp_path / "bad.fasta").write_text(">a\n" + proteins[0] + "\n>b\nMK>T\n")
    recipe.data.train_data = [str(tmp_path / "bad.fasta")]
    with pytest.raises(CorpusError):
        pretrain(recipe)
    (tmp_path / "good.fasta").write_text("".join(f">{i}\n{s}\n" for i, s in enumerate(proteins[:30])))
    recipe.data.train_data = [str(tmp_path / "good.fasta")]
    assert pretrain(recipe).state.global_step == 4


def test_proteins_that_are_too_short_for_a_mask_are_counted_and_said(make_recipe, tmp_path, caplog):
    # at 10 % + 10 %, 2 residues have no mask, 4 have one at random, and 30 have three of each kind
    proteins = [("MKTAYIAKQR" * 3)[:length] for length in (2, 2, 4, 4, 4, 30, 30)]
    (tmp_path / "short.fasta").write_text("".join(f">{i}\n{protein}\n" for i, protein in enumerate(proteins)))
    recipe = make_recipe(
        min_length=1, holdout_families=0, holdout_members=0, cluster_table="", background_gate="", eval_strategy="no"
    )
    recipe.data.train_data = [str(tmp_path / "short.fasta")]
    with caplog.at_level("WARNING"):
        pretrain(recipe)
    facts = json.loads((tmp_path / "run" / "data.json").read_text())
    assert (facts["too_short_for_any_mask"], facts["too_short_for_the_noiser"]) == (2, 3)
    assert "2 of 7 proteins are so short (at most 2 residues) that none of their residues is masked" in caplog.text
    assert (
        "3 of 7 proteins are so short (at most 4 residues) that the noiser masks none of their residues" in caplog.text
    )
    log = [json.loads(line) for line in open(tmp_path / "run" / "metrics.jsonl")]
    assert sum(entry.get("rows_without_mask", 0) for entry in log) >= 2


def test_a_recipe_probes_the_encoder_on_tasks_while_it_trains(make_recipe, tmp_path, proteins):
    folder = tmp_path / "tasks"
    folder.mkdir()
    for number, split in enumerate(("train", "valid", "test")):
        rows = [
            {"primary": protein[:40], "log_fluorescence": protein[:40].count("K")} for protein in proteins[number:90:3]
        ]
        (folder / f"fluorescence_{split}.jsonl").write_text("\n".join(map(json.dumps, rows)))
    pretrain(make_recipe(probe_tasks="fluorescence", probe_data_dir=folder, probe_steps=2, probe_max_records=20))
    log = [json.loads(line) for line in (tmp_path / "run" / "metrics.jsonl").read_text().splitlines()]
    figures = {entry["step"]: entry["probe_fluorescence_spearman"] for entry in log if "probe_seconds" in entry}
    assert list(figures) == [2, 4] and all(-1 <= value <= 1 for value in figures.values())
    assert "probe_steps: 2" in (tmp_path / "run" / "recipe.yaml").read_text()
