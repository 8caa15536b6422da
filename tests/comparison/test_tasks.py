import json
import shutil

import numpy as np
import pytest

from adversarial_mlm.comparison import tasks as tasks_module
from adversarial_mlm.downstream.task_trainer import DivergenceError
from adversarial_mlm.recipes.recipe import RecipeError

_FINETUNE = {"seeds": [0, 1], "max_steps": 2, "batch_size": 8, "head_size": 8, "encoder_dropout": False}


@pytest.fixture
def with_tasks(tmp_path, proteins):
    """Changes of the recipe: a stability task whose target is the share of some residues."""
    generator = np.random.default_rng(0)
    proteins = [protein for protein in proteins if len(protein) >= 20]
    for split, number in {"train": 60, "valid": 20, "test": 20}.items():
        chosen = [protein[:20] for protein in generator.choice(proteins, number, replace=False)]
        rows = [{"primary": item, "stability_score": sum(map(item.count, "AVLG")) / 20} for item in chosen]
        (tmp_path / f"stability_{split}.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    return {"tasks": {"data_dir": str(tmp_path), "of": {"stability": {"finetune": _FINETUNE}}}, "seeds": [0]}


@pytest.mark.slow
def test_every_run_has_its_tasks_beside_fresh_weights_and_what_needs_no_encoder(compare, with_tasks, tmp_path):
    outcome = compare(with_tasks)
    study = json.loads((tmp_path / "study" / "study.json").read_text())
    for entry in (*study["arms"], {"seeds": study["untrained"]}):
        (of_seed,) = entry["seeds"]
        assert -1 <= of_seed["metrics"]["probe/stability/test"] <= 1
        by_seed = of_seed["metrics"]["finetune/stability/test/by_seed"]
        assert len(by_seed) == 2
        assert of_seed["metrics"]["finetune/stability/test"] == pytest.approx(np.mean(by_seed))
    assert study["tasks"]["stability"]["baselines"]["composition"]["test"]["value"] > 0.5
    assert "| Stability, test | 0.626 ± 0.044 (a) | 0.630 ± 0.009 (a) |" in outcome.tables
    assert "| Stability, test, fine-tuned |" in outcome.tables
    assert not list((tmp_path / "study").glob("runs/*/*/*/tasks/finetuned-*"))  # only figures are kept

    changed = {**with_tasks, "tasks": {**with_tasks["tasks"], "of": {"stability": {"max_records": 10}}}}
    with pytest.raises(RecipeError, match="task stability has other options .* than for the runs in output_dir"):
        compare(changed)


@pytest.mark.slow
def test_tasks_that_are_added_later_are_done_and_those_that_are_done_stay(compare, with_tasks, monkeypatch, tmp_path):
    del with_tasks["tasks"]["of"]["stability"]["finetune"]
    compare({"seeds": [0]})
    probe, probed = tasks_module.probe, []

    def count(*args, **options):
        assert options == {"show_progress": True} and args[3].dtype == "float32"
        probed.append(args)
        if len(probed) == 3:
            raise KeyboardInterrupt
        return probe(*args, **options)

    monkeypatch.setattr(tasks_module, "probe", count)
    with pytest.raises(KeyboardInterrupt):
        compare(with_tasks)
    outcome = compare(with_tasks)
    assert len(probed) == 4  # three encoders, one of them twice
    assert "| Stability, test |" in outcome.tables


def test_other_data_under_the_same_options_are_refused(compare, with_tasks, tmp_path):
    del with_tasks["tasks"]["of"]["stability"]["finetune"]
    compare(with_tasks)
    lines = (tmp_path / "stability_test.jsonl").read_text().splitlines()
    (tmp_path / "stability_test.jsonl").write_text("\n".join(lines[:10]))
    game = tmp_path / "study" / "runs" / "game" / "seed-0" / "3-updates"
    for name in ("tasks/stability.json", "result.json"):
        (game / name).unlink()
    with pytest.raises(RecipeError, match="the data of task stability in .* differ from those of the results"):
        compare(with_tasks)
    shutil.rmtree(tmp_path / "study" / "runs")
    (tmp_path / "study" / "confirmation.json").unlink()
    assert "| Stability, test |" in compare(with_tasks).tables  # without results all is made of the new data
    baselines = json.loads((tmp_path / "study" / "baselines.json").read_text())
    assert baselines["stability"]["facts"]["rows"]["test"] == 10


def test_data_that_are_not_there_are_said_before_any_run(compare, with_tasks, tmp_path):
    (tmp_path / "stability_valid.jsonl").unlink()
    with pytest.raises(ValueError, match="stability needs the split valid"):
        compare(with_tasks)
    assert not (tmp_path / "study" / "runs").exists()


@pytest.mark.slow
def test_fine_tuning_that_diverges_is_a_result(compare, with_tasks, monkeypatch, tmp_path):
    def diverging(*args):
        raise DivergenceError("the loss is nan")

    monkeypatch.setattr(tasks_module, "finetune_seeds", diverging)
    outcome = compare(with_tasks)
    assert "| Stability, test | 0.626" in outcome.tables and "fine-tuned |" not in outcome.tables
    result = next((tmp_path / "study").glob("runs/game/*/*/result.json"))
    assert json.loads(result.read_text())["tasks"]["stability"]["finetune"]["diverged"] == "the loss is nan"


def test_tasks_that_left_the_recipe_stay_in_the_results(compare, with_tasks, tmp_path):
    del with_tasks["tasks"]["of"]["stability"]["finetune"]
    outcome = compare(with_tasks)
    assert "| Stability, test | 0.626" in outcome.tables
    for line in ("train", "valid", "test"):
        text = (tmp_path / f"stability_{line}.jsonl").read_text()
        (tmp_path / f"fluorescence_{line}.jsonl").write_text(text.replace("stability_score", "log_fluorescence"))
    of = {"fluorescence": {}}
    outcome = compare({**with_tasks, "tasks": {**with_tasks["tasks"], "of": of}})
    assert "| Stability, test | 0.626" in outcome.tables and "| Fluorescence, test | 0.678" in outcome.tables
    assert "| Stability, test | 0.626" in compare({"seeds": [0]}).tables  # without any task, too
    compare(with_tasks)
    for path in (tmp_path / "study").glob("runs/*/*/*/result.json"):
        assert set(json.loads(path.read_text())["tasks"]) == {"stability", "fluorescence"}
