"""Fine-tuning more than once: seeds, and the search of a grid."""

import json
import shutil

import numpy as np
import pytest

from adversarial_mlm.downstream import finetune as finetune_module
from adversarial_mlm.downstream.finetune import finetune, finetune_seeds, grid_search
from tests.helpers.finetune_helpers import same_predictions, settings


class TestSeveralRuns:
    def test_a_run_that_is_complete_is_read_and_not_made_again(self, save_encoder, task, tmp_path, monkeypatch):
        data, encoder, out = task(), save_encoder("bert"), str(tmp_path / "out")
        first = finetune(data, encoder, out, settings())
        monkeypatch.setattr(finetune_module, "_train", None)
        moved = shutil.move(encoder, tmp_path / "elsewhere")
        second = finetune(data, str(moved), out, settings(report_to="tensorboard"))
        assert second.history == first.history
        assert same_predictions(first.predictions["test"], second.predictions["test"])

    def test_the_warning_about_cut_proteins_comes_again_when_a_complete_run_is_read(
        self, save_encoder, task, tmp_path, monkeypatch
    ):
        warnings = []
        monkeypatch.setattr(finetune_module, "_warn_once", warnings.append)
        data, encoder, out = task(lengths=(6, 15)), save_encoder("bert"), str(tmp_path / "out")
        for _ in range(2):
            finetune(data, encoder, out, settings(max_length=12))
        assert len(warnings) == 2 and "max_length is 12, so proteins with more than" in warnings[1]

    @pytest.mark.parametrize("what", ["settings", "data", "encoder"])
    def test_the_result_of_something_else_is_not_taken_for_ones_own(self, save_encoder, task, tmp_path, what):
        data, encoder, out = task(), save_encoder("bert"), str(tmp_path / "out")
        finetune(data, encoder, out, settings())
        other = settings(weight_decay=0.5) if what == "settings" else settings()
        data = task(train=41) if what == "data" else data
        encoder = save_encoder("modernbert") if what == "encoder" else encoder
        with pytest.raises(ValueError, match="output_dir .* contains the result of other settings, other data"):
            finetune(data, encoder, out, other)

    def test_another_model_is_not_written_over(self, save_encoder, task):
        folder = save_encoder("bert")
        with pytest.raises(
            ValueError,
            match=r"output_dir .* contains files that no fine-tuning run of this package has marked as its own",
        ):
            finetune(task(), folder, folder, settings())

    def test_seeds_have_folders_of_their_own_and_only_the_missing_one_is_run(
        self, save_encoder, task, tmp_path, monkeypatch
    ):
        data, encoder, out = task(), save_encoder("bert"), tmp_path / "out"
        first = finetune_seeds(data, encoder, str(out), settings(), seeds=[0, 2])
        assert [result.settings.seed for result in first] == [0, 2]
        (out / "seed-2" / "result.json").unlink()  # killed before the end
        runs, train = [], finetune_module._train
        monkeypatch.setattr(
            finetune_module, "_train", lambda data, start, folder: runs.append(folder) or train(data, start, folder)
        )
        second = finetune_seeds(data, encoder, str(out), settings(), seeds=[0, 2])
        assert runs == [str(out / "seed-2")]
        for ours, theirs in zip(first, second, strict=True):
            assert same_predictions(ours.predictions["test"], theirs.predictions["test"])
        assert not same_predictions(first[0].predictions["test"], first[1].predictions["test"])

    def test_seeds_must_differ(self, save_encoder, task, tmp_path):
        for seeds in ([], [1, 1]):
            with pytest.raises(ValueError, match="seeds must be different numbers"):
                finetune_seeds(task(), save_encoder("bert"), str(tmp_path), settings(), seeds=seeds)


class TestGrid:
    GRID = {"learning_rate": [1e-2, 1e-6], "batch_size": [16, 32]}

    @pytest.mark.slow
    def test_the_best_on_valid_is_chosen_and_tests_are_not_looked_at(self, save_encoder, task, tmp_path):
        data = task()
        del data.splits["test"]
        best, trials = grid_search(data, save_encoder("bert"), str(tmp_path / "out"), settings(), self.GRID, seed=3)
        scores = [trial["validation_score"] for trial in trials]
        assert [trial["options"] for trial in trials] == [
            {"learning_rate": rate, "batch_size": size} for rate in (1e-2, 1e-6) for size in (16, 32)
        ]
        assert best == settings(**trials[int(np.argmax(scores))]["options"], seed=3)
        lines = (tmp_path / "out" / "trials.jsonl").read_text().splitlines()
        assert [json.loads(line) for line in lines] == trials
        assert [path.name for path in (tmp_path / "out").iterdir()] == ["trials.jsonl"]

    def test_a_trial_scores_as_the_run_with_its_settings_does(self, save_encoder, task, tmp_path):
        data, encoder = task("token_classification"), save_encoder("bert")
        best, trials = grid_search(data, encoder, str(tmp_path / "g"), settings(), {"patience": [2]})
        result = finetune(data, encoder, str(tmp_path / "run"), best)
        assert trials[0]["validation_score"] == result.validation_score
        assert trials[0]["best_step"] == result.best_step

    @pytest.mark.slow
    def test_a_search_that_was_killed_goes_on_behind_its_last_trial(self, save_encoder, task, tmp_path, monkeypatch):
        data, encoder, out = task(), save_encoder("bert"), tmp_path / "out"
        best, trials = grid_search(data, encoder, str(out), settings(), self.GRID)
        file = out / "trials.jsonl"
        lines = file.read_text().splitlines()
        file.write_text("\n".join(lines[:2]) + "\n" + lines[2][:40])  # cut off while it was written
        runs, train = [], finetune_module._train
        monkeypatch.setattr(
            finetune_module, "_train", lambda data, start, _: runs.append(start.settings) or train(data, start, _)
        )
        again, repeated = grid_search(data, encoder, str(out), settings(), self.GRID)
        assert [(run.learning_rate, run.batch_size) for run in runs] == [(1e-6, 16), (1e-6, 32)]
        drop = ({"seconds": None} | trial for trial in repeated)
        assert again == best
        assert [{**t, "seconds": 0} for t in drop] == [{**t, "seconds": 0} for t in trials]
        assert len(file.read_text().splitlines()) == 4

    def test_a_trial_that_diverges_is_written_and_the_search_goes_on(self, save_encoder, task, tmp_path):
        grid = {"learning_rate": [1e30, 1e-2]}
        base = settings(warmup_steps=0, max_grad_norm=0.0)
        best, trials = grid_search(task(), save_encoder("bert"), str(tmp_path / "out"), base, grid)
        assert best.learning_rate == 1e-2
        assert "learning_rate" in trials[0]["failure"] and trials[0]["validation_score"] is None
        assert trials[1]["failure"] is None
        with pytest.raises(ValueError, match="none of the 1 trials of the grid has a score on valid; the first: .*"):
            grid_search(task(), save_encoder("bert"), str(tmp_path / "out"), base, {"learning_rate": [1e30]})

    @pytest.mark.parametrize(
        ("grid", "sentence"),
        [
            ({"lr": [1e-3]}, "there is no option 'lr' of fine-tuning: choose one of head,"),
            ({"batch_size": []}, "the grid has no list of values for batch_size"),
            ({"head": "mean"}, "the grid has no list of values for head"),
            ({"batch_size": [8, 0]}, "batch_size must be at least 1, got 0"),
            ({"seed": [0, 1]}, "seed cannot be in the grid"),
            ({"head": ["mean", "conv"]}, "head must be one of attention, mean, cls for regression, got 'conv'"),
            ({"max_length": [100, 600]}, "max_length is 600, but the encoder has 512 positions"),
        ],
    )
    def test_a_grid_that_makes_no_sense_is_refused_before_anything_is_trained(
        self, save_encoder, task, tmp_path, grid, sentence
    ):
        with pytest.raises(ValueError, match=sentence):
            grid_search(task(), save_encoder("bert"), str(tmp_path / "out"), settings(), grid)
        assert not (tmp_path / "out").exists()

    def test_a_file_of_trials_that_is_something_else_is_refused(self, save_encoder, task, tmp_path):
        (tmp_path / "trials.jsonl").write_text('{"loss": 1}\n')
        with pytest.raises(ValueError, match=r"line 1 of .*trials.jsonl is not a trial of a grid"):
            grid_search(task(), save_encoder("bert"), str(tmp_path), settings(), {"patience": [2]})
