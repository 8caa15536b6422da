from adversarial_mlm.reports.report_tables import option_differences, results
from adversarial_mlm.reports.run_log import read_run
from tests.reports.conftest import log, training_entry


def test_results_have_a_row_for_each_run_and_held_out_set(write_run):
    table = results([read_run(write_run("game")), read_run(write_run("baseline", log(noiser=False)))])
    rows = [dict(zip(table.header, row, strict=True)) for row in table.rows]
    assert [(row["run"], row["held-out set"]) for row in rows] == [
        ("game", "families"), ("game", "members"), ("baseline", "families"), ("baseline", "members"),
    ]  # fmt: skip
    assert rows[0]["cross-entropy, nats"] == "2.600" and rows[0]["gap at [MASK]"] == "0.050"
    assert rows[0]["skipped updates"] == "0 (noiser 0)" and rows[2]["skipped updates"] == "0"
    assert rows[2]["noiser's masks"] == "–"


def test_a_run_without_evaluations_has_a_row_with_its_alarm_and_skipped_updates(write_run):
    entries = [training_entry(10), {**training_entry(20), "collapse": 1.0, "skipped_updates": 2.0}]
    (row,) = results([read_run(write_run(entries=entries))]).rows
    assert row[2:4] == ["none", "–"] and row[-2:] == ["step 20", "2 (noiser 0)"]


def test_only_options_that_differ_are_listed(write_run):
    runs = [
        read_run(write_run("a", learning_rate=1e-3, mask_options=[0.8, 0.1, 0.1])),
        read_run(write_run("b", learning_rate=2e-3, mask_options=[0.8, 0.1, 0.1], preset="paper")),
    ]
    table = option_differences(runs)
    assert table.header == ["option", "a", "b"]
    assert table.rows == [["learning_rate", "0.001", "0.002"], ["preset", "–", "paper"]]
