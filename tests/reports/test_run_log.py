import json
import math
from pathlib import Path

import numpy as np
import pytest

from adversarial_mlm.reports.run_log import position_counts, read_run, replacement_counts, seconds_of
from adversarial_mlm.utils.errors import RecipeError
from tests.reports.conftest import evaluation, log, training_entry


def test_a_log_is_read_by_step_and_the_newest_evaluation_of_a_step_counts(write_run):
    run = read_run(write_run(entries=[*log(), evaluation(40, "members", 2.0)]))
    assert run.name == run.group == "mine" and run.last_step == 40 and run.has_noiser
    steps, losses = run.series("loss")
    assert steps.tolist() == [10, 20, 30, 40] and losses.tolist() == pytest.approx([2.9, 2.8, 2.7, 2.6])
    assert run.series("loss", "members")[1].tolist() == [2.8, 2.0] and run.last("background_loss", "members") == 2.9
    assert list(run.held_out) == ["families", "members"] and not run.remarks
    assert len(run.series("nothing")[0]) == 0 and math.isnan(run.last("nothing"))


def test_an_unnamed_held_out_set_is_called_validation(write_run):
    entry = {"eval_loss": 2.5, "eval_perplexity": 12.0, "step": 10}
    assert read_run(write_run(entries=[entry])).last("loss", "validation") == 2.5


def test_an_incomplete_last_line_and_other_damage_are_left_out_and_counted(write_run):
    folder = write_run()
    with open(f"{folder}/metrics.jsonl", "a") as file:
        file.write('[1, 2]\n{"loss": 2.5, "learning_ra')
    run = read_run(folder)
    assert len(run.training) == 4 and run.remarks == ["2 incomplete lines of metrics.jsonl left out"]


def test_values_that_were_not_finite_are_gaps(write_run):
    run = read_run(write_run(entries=[{**training_entry(10), "loss": None}, training_entry(20)]))
    assert np.isnan(run.series("loss")[1]).tolist() == [True, False]


def test_long_logs_are_averaged(write_run):
    entries = [{"loss": float(step % 2), "learning_rate": 1e-3, "step": step} for step in range(1, 1201)]
    steps, values = read_run(write_run(entries=entries)).series("loss")
    assert len(steps) == 300 and set(values) == {0.5} and steps[0] == 2.5 and steps[-1] == 1198.5


@pytest.mark.parametrize(
    ("make", "sentence"),
    [
        (lambda folder: None, "does not exist: give the folder of a run"),
        (lambda folder: folder.mkdir(), "is not the folder of a run: there is no metrics.jsonl"),
        (lambda folder: folder.write_text("x"), "is not the folder of a run"),
        (lambda folder: (folder.mkdir(), (folder / "metrics.jsonl").write_text("")), "has no figures of training"),
        (lambda folder: (folder.mkdir(), (folder / "metrics.jsonl").mkdir()), "there is no metrics.jsonl"),
    ],
    ids=["missing", "empty folder", "a file", "empty log", "a folder as log"],
)
def test_what_is_no_run_is_refused_in_one_sentence(tmp_path, make, sentence):
    make(tmp_path / "it")
    with pytest.raises(RecipeError, match=sentence):
        read_run(tmp_path / "it")


def test_the_log_itself_may_be_given(write_run):
    folder = write_run()
    assert read_run(f"{folder}/metrics.jsonl").folder == folder


def test_options_that_cannot_be_read_are_remarked(write_run):
    folder = write_run()
    Path(folder, "recipe.yaml").write_text("a: [")
    assert read_run(folder).remarks == ["recipe.yaml cannot be read: the options are not shown"]
    Path(folder, "recipe.yaml").unlink()
    run = read_run(folder)
    assert not run.options and not run.remarks and run.outcome() == "40 updates"


def test_the_outcome_says_how_a_run_ended(write_run):
    assert read_run(write_run("whole")).outcome() == "complete, 40 updates"
    assert read_run(write_run("part", max_steps=1000)).outcome() == "ended at step 40 of 1,000"
    alarm = [*log()[:-1], {**training_entry(50), "collapse": 1.0}]
    stopped = read_run(write_run("stopped", alarm, max_steps=100, on_collapse="stop"))
    assert stopped.alarms == [50] and stopped.outcome() == "ended at step 50 of 100: stopped by the collapse alarm"
    folder = write_run("broken", max_steps=100)
    Path(folder, "nonfinite_records.json").write_text("{}")
    assert read_run(folder).outcome() == "ended at step 40 of 100: too many updates were not finite"


def test_the_number_of_updates_comes_from_the_newest_state_if_the_recipe_counts_epochs(write_run):
    folder = write_run(max_steps=-1)
    assert read_run(folder).max_steps is None
    checkpoint = Path(folder, "checkpoint-20")
    checkpoint.mkdir()
    (checkpoint / "trainer_state.json").write_text(json.dumps({"max_steps": 70}))
    assert read_run(folder).max_steps == 70
    Path(folder, "trainer_state.json").write_text("{")  # damaged
    assert read_run(folder).max_steps == 70


def test_the_parts_of_the_time_add_up_to_that_of_training(write_run):
    seconds = seconds_of(read_run(write_run()))
    assert seconds == {
        "encoder": 12.0, "noiser": 8.0, "waiting for data": 2.0, "evaluations": 2.0, "other": 16.0,
    }  # fmt: skip
    assert "other" not in seconds_of(read_run(write_run("unfinished", log()[:-1])))


def test_counts_are_those_of_the_last_quarter(write_run):
    entries = [training_entry(step) for step in range(10, 90, 10)]
    residues, masked = position_counts(run := read_run(write_run(entries=entries)))
    assert residues.tolist() == [200] * 20 and masked.tolist() == [20] * 19 + [40]
    rows, columns, counts = replacement_counts(run)
    assert rows == "A" and len(columns) == 20  # W has 6 replacements, too few
    assert counts.tolist() == [[0, 24] + [0] * 18]


def test_rows_with_few_replacements_are_shown_if_there_are_no_others(write_run):
    entry = {**training_entry(10), "replacements": {"from": "W", "to": "AC", "counts": [[1, 2]]}}
    assert replacement_counts(read_run(write_run(entries=[entry])))[0] == "W"


def test_counts_of_another_shape_are_ignored(write_run):
    entry = {**training_entry(10), "masks_by_position": [1, 2]}
    assert position_counts(read_run(write_run(entries=[entry])))[1].sum() == 0


@pytest.mark.parametrize("value", [7, {"from": "A"}, {"from": "", "to": "", "counts": []}])
def test_replacements_that_no_run_writes_are_ignored(write_run, value):
    assert not read_run(write_run(entries=[{**training_entry(10), "replacements": value}])).replacements


def test_uneven_rows_of_replacements_count_nothing(write_run):
    entry = {**training_entry(10), "replacements": {"from": "AC", "to": "AC", "counts": [[1, None], [1]]}}
    assert replacement_counts(read_run(write_run(entries=[entry, training_entry(20)])))[2].sum() == 12
    assert not read_run(write_run("b", [entry])).replacements
