import numpy as np
import pytest
import torch

from adversarial_mlm.data import CorpusError
from adversarial_mlm.downstream.command_line import parse_arguments
from adversarial_mlm.downstream.zero_shot import evaluate_zero_shot
from adversarial_mlm.inference.variant_effects import apply_mutations, score_variants

WILD_TYPE = "MKTAYIAKQRQISFVKSHFSRQLEERLG"


@pytest.fixture
def model(make_encoder):
    model = make_encoder().eval()
    torch.nn.init.normal_(model.bert.embeddings.word_embeddings.weight)
    return model


@pytest.fixture
def saved(model, tokenizer, tmp_path):
    model.save_pretrained(tmp_path / "model")
    tokenizer.save_pretrained(tmp_path / "model")
    return str(tmp_path / "model")


def run(saved, *words):
    return evaluate_zero_shot(parse_arguments(["--mode", "zero_shot", "--model_name_or_path", saved, *words])[0], None)


def test_a_table_of_mutations_is_compared_with_what_was_measured(saved, model, tokenizer, tmp_path):
    from scipy.stats import spearmanr

    texts = [f"{old}{place + 1}{new}" for place, old in enumerate(WILD_TYPE) for new in "CW" if new != old]
    measured = np.random.default_rng(0).normal(size=len(texts))
    rows = [f"{text},{value}" for text, value in zip(texts, measured, strict=True)]
    (tmp_path / "mine.csv").write_text("\n".join(["mutant,activity", *rows]))
    words = ["--task", "regression", "--train_file", str(tmp_path / "mine.csv"), "--target", "activity"]
    words += ["--mutations_column", "mutant", "--wild_type", WILD_TYPE]
    result, counted = run(saved, *words)
    scores = score_variants(model, tokenizer, WILD_TYPE, [apply_mutations(WILD_TYPE, text) for text in texts])
    figure = result["figures"]["test"]["spearman"]
    assert figure["value"] == pytest.approx(spearmanr(scores, measured).statistic, abs=1e-5)
    assert figure["low"] < figure["value"] < figure["high"] and figure["rows"] == len(texts)
    assert counted["method"] == "fewer substitutions"
    assert counted["figures"]["test"]["spearman"]["value"] is None  # all have one
    result, _ = run(saved, *words, "--max_records", "5")
    assert result["notes"] == [f"5 of {len(texts)} records are used (max_records)."]
    (tmp_path / "mine.csv").write_text("mutant,activity\nA4W,1\nK4W,2\n")
    with pytest.raises(
        CorpusError, match='line 3: column "mutant" contains K4W, but the wild type has A at position 4'
    ):
        run(saved, *words)


def test_fluorescence_has_its_own_wild_type_and_other_lengths_are_counted(saved, write_task):
    def variants(splits):
        generator = np.random.default_rng(3)
        for found in splits.values():
            for index, row in enumerate(found):
                places = generator.choice(28, index % 4, replace=False)
                sequence = list(WILD_TYPE)
                for place in places:
                    sequence[place] = "W"
                row |= {"primary": "".join(sequence), "num_mutations": int(index % 4)}
        splits["test"][1]["primary"] = WILD_TYPE[1:]

    folder = write_task("fluorescence", change=variants)
    result, counted = run(saved, "--task", "fluorescence", "--data_dir", str(folder))
    assert result["data"]["rows"] == {"valid": 13, "test": 13}
    assert any("test: 1 of 14 records are left out" in note for note in result["notes"])
    assert result["against"]["test"]["baseline"] == "fewer substitutions" == counted["method"]


def test_the_wild_type_is_found_among_records_that_are_not_used_and_nothing_is_said_twice(saved, write_task, caplog):
    def variants(splits):
        for found in splits.values():
            for row in found:
                row |= {"primary": "W" + WILD_TYPE[1:], "num_mutations": 1}
        splits["train"][-1] |= {"primary": WILD_TYPE.lower(), "num_mutations": 0}

    folder = write_task("fluorescence", change=variants)
    result, _ = run(saved, "--task", "fluorescence", "--data_dir", str(folder), "--max_records", "4")
    assert result["data"]["rows"] == {"valid": 4, "test": 4}
    said = [entry.getMessage() for entry in caplog.records]
    assert len(set(said)) == len(said) > 2


def test_what_cannot_be_scored_is_refused(saved, write_task, make_encoder, tokenizer, tmp_path):
    folder = str(write_task("stability"))
    with pytest.raises(CorpusError, match="stability has no wild type"):
        run(saved, "--task", "stability", "--data_dir", folder)
    (tmp_path / "mine.csv").write_text("sequence,activity\nMKT,1\nMKTA,2\n")
    words = ["--task", "regression", "--train_file", str(tmp_path / "mine.csv"), "--target", "activity"]
    with pytest.raises(CorpusError, match="wild_type is missing"):
        run(saved, *words)
    with pytest.raises(CorpusError, match="only 0 of the 2 records of test are substitutions"):
        run(saved, *words, "--wild_type", WILD_TYPE)
    for wild_type in ("", "MKT 1", "MK-T"):
        with pytest.raises(CorpusError, match="wild_type is .*, but must be a protein in one-letter code"):
            run(saved, *words, "--wild_type", wild_type)
    headless = tmp_path / "headless"
    make_encoder().bert.save_pretrained(headless)
    tokenizer.save_pretrained(headless)
    with pytest.raises(ValueError, match="has no masked-language-modelling head"):
        run(str(headless), *words, "--wild_type", "MKT")
