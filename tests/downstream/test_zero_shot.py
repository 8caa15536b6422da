import json

import numpy as np
import pytest
import torch

from adversarial_mlm.data import CorpusError
from adversarial_mlm.downstream.command_line import parse_arguments
from adversarial_mlm.downstream.zero_shot import evaluate_zero_shot
from adversarial_mlm.inference.mutations import apply_substitutions, parse_mutations
from adversarial_mlm.inference.variant_effects import score_variants

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


@pytest.fixture
def score(saved, tmp_path):
    """Evaluate a table of the user's own, given as lines."""

    def score(header, rows, *words):
        (tmp_path / "mine.csv").write_text("\n".join([f"{header},activity", *rows]))
        words = ["--train_file", str(tmp_path / "mine.csv"), "--target", "activity", "--wild_type", WILD_TYPE, *words]
        column = ["--mutations_column", "mutant"] if header == "mutant" else []
        return run(saved, "--task", "regression", *words, *column)

    return score


SINGLE = [f"{old}{place + 1}{'W' if old != 'W' else 'C'}" for place, old in enumerate(WILD_TYPE)]


def test_a_table_of_mutations_is_compared_with_what_was_measured(score, model, tokenizer):
    from scipy.stats import spearmanr

    measured = np.random.default_rng(0).normal(size=len(SINGLE))
    rows = [f"{text},{value}" for text, value in zip(SINGLE, measured, strict=True)]
    result, counted = score("mutant", rows)
    variants = [apply_substitutions(WILD_TYPE, parse_mutations(text)) for text in SINGLE]
    scores = score_variants(model, tokenizer, WILD_TYPE, variants)
    figure = result["figures"]["test"]["spearman"]
    assert figure["value"] == pytest.approx(spearmanr(scores, measured).statistic, abs=1e-5)
    assert figure["low"] < figure["value"] < figure["high"] and figure["rows"] == len(SINGLE)
    assert counted["method"] == "fewer substitutions"
    assert counted["figures"]["test"]["spearman"]["value"] is None  # all have one
    result, _ = score("mutant", rows, "--max_records", "5")
    assert result["notes"] == [f"5 of {len(SINGLE)} records are used (max_records)."]


def test_rows_that_are_no_substitutions_are_left_out_and_counted_by_reason(score, caplog):
    right = [f"{text},{number}" for number, text in enumerate(SINGLE[:8])]
    odd = ["R10*,1", "R10del,1", "R10Ter,1", "foo,1", "A4X,1", ",1", "NA,1", "K4W,1", "A4W:Q9C,NA", "c.1A>G,1"]
    plain, _ = score("mutant", right)
    found, _ = score("mutant", [*right, *odd])
    assert found["figures"]["test"] == plain["figures"]["test"]
    assert found["data"]["fingerprints"] == plain["data"]["fingerprints"] and not plain["notes"]
    (note,) = found["notes"]
    assert note in caplog.text
    assert note.startswith("mine.csv: 10 of 18 records are left out: 2 with a stop (*) (first: line 10: 'R10*'), ")
    for part in [
        "1 with a deletion (line 11: 'R10del')",
        "1 in a notation that is not known (line 13: 'foo')",
        "1 with a residue that is unknown or ambiguous (?, B, J, X or Z) (line 14: 'A4X')",
        "2 without a mutation (first: line 15)",
        "1 with another old residue than the wild type (line 17: 'K4W')",
        "1 without a label (line 18)",
        "1 in a notation of nucleotides (line 19: 'c.1A>G')",
    ]:
        assert part in note


def test_the_wild_type_and_synonymous_changes_are_scored_as_the_wild_type(score):
    rows = ["A4W,1", "Q9C,2", "WT,0", "_wt,0", "=,0", "R10=,0", "p.Arg10=,0", "p.Ala4Trp,1"]
    result, counted = score("mutant", rows)
    same, _ = score(
        "sequence", [f"{apply_substitutions(WILD_TYPE, parse_mutations(row[:-2]))},{row[-1]}" for row in rows]
    )
    assert result["notes"] == [] and result["figures"] == same["figures"]
    assert result["data"]["fingerprints"] == same["data"]["fingerprints"]
    assert counted["figures"]["test"]["spearman"]["value"] < 0  # fewer substitutions, higher


def test_a_table_of_another_wild_type_or_numbering_is_refused_with_the_offset_that_fits(score):
    rows = [f"{text[0]}{int(text[1:-1]) + 23}{text[-1]},{number}" for number, text in enumerate(SINGLE)]
    message = (
        r"mine.csv: 28 of 28 variants do not fit the wild type \(28 residues\), the first in line 2: column "
        r"\"mutant\" contains 'M24W', but the wild type has E at position 24: the positions fit with offset 23"
    )
    with pytest.raises(CorpusError, match=message):
        score("mutant", rows)
    shifted, _ = score("mutant", rows, "--offset", "23")
    plain, _ = score("mutant", [f"{text},{number}" for number, text in enumerate(SINGLE)])
    assert shifted["figures"] == plain["figures"]
    with pytest.raises(CorpusError, match="with offset 23: set it"):
        score("mutant", rows, "--offset", "10")
    message = (
        "line 3: column \"mutant\" contains 'K4W', but the wild type has A at position 4: check wild_type and the"
    )
    with pytest.raises(CorpusError, match=message):
        score("mutant", ["A4W,1", "K4W,2"])


def test_gaps_stops_and_other_lengths_are_left_out_and_spelling_changes_nothing(score):
    variants = [apply_substitutions(WILD_TYPE, parse_mutations(text)) for text in SINGLE[:8]]
    right = [f"{variant},{number}" for number, variant in enumerate(variants)]
    plain, _ = score("sequence", right)
    spelled = [f"{' '.join(variants[0])},0", f"{variants[1].lower()},1", f"{variants[2]}*,2", *right[3:]]
    odd = [f"-{WILD_TYPE[1:]},9", f".{WILD_TYPE[1:]},9", f"{WILD_TYPE[:9]}*,9", f"{WILD_TYPE[:9]}*{WILD_TYPE[10:]},9"]
    odd += [f"{WILD_TYPE[1:]},9", "NA,9"]
    found, _ = score("sequence", [*spelled, *odd])
    assert found["figures"]["test"] == plain["figures"]["test"] and not plain["notes"]
    assert found["notes"] == [
        "mine.csv: 6 of 14 records are left out: 2 with a gap (- or .) (first: line 10), 2 with a stop (*) (first: "
        "line 12), 1 with another length than the wild type (line 14), 1 without a sequence (line 15).",
        "test: 14 records read, 8 kept; 1 upper-cased, 1 with stops (*) removed, 1 with white space removed.",
    ]


def test_mutations_may_be_a_list_of_each_record(saved, tmp_path):
    rows = [
        {"mutant": ["A4W", "Q9C"], "activity": 1},
        {"mutant": ["A4W"], "activity": 2},
        {"mutant": [], "activity": 0},
    ]
    (tmp_path / "mine.json").write_text(json.dumps(rows))
    words = ["--train_file", str(tmp_path / "mine.json"), "--target", "activity", "--wild_type", WILD_TYPE]
    result, _ = run(saved, "--task", "regression", *words, "--mutations_column", "mutant")
    assert result["data"]["rows"] == {"test": 2} and "1 without a mutation (record 3)" in result["notes"][0]


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
    note = "test: 1 of 14 records is left out: 1 with another length than the wild type (id '1')."
    assert note in result["notes"]
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
    message = (
        "only 0 of the 2 records of test are substitutions of the wild type .*: check wild_type; 2 of 2 records are"
    )
    with pytest.raises(CorpusError, match=message):
        run(saved, *words, "--wild_type", WILD_TYPE)
    for wild_type in ("", "MKT1", "MK-T"):
        with pytest.raises(CorpusError, match="wild_type is .*, but must be a protein in one-letter code"):
            run(saved, *words, "--wild_type", wild_type)
    headless = tmp_path / "headless"
    make_encoder().bert.save_pretrained(headless)
    tokenizer.save_pretrained(headless)
    (tmp_path / "mine.csv").write_text("sequence,activity\nMKT,1\nMKA,2\n")
    with pytest.raises(ValueError, match="has no masked-language-modelling head"):
        run(str(headless), *words, "--wild_type", "MKT")


def test_scores_have_no_squared_error_and_groups_of_variants_may_be_resampled(saved, tmp_path):
    measured = np.random.default_rng(0).normal(size=len(SINGLE))
    lines = [f"{text},{value},half {row % 3}" for row, (text, value) in enumerate(zip(SINGLE, measured, strict=True))]
    (tmp_path / "mine.csv").write_text("\n".join(["mutant,activity,clade", *lines]))
    words = ["--train_file", str(tmp_path / "mine.csv"), "--target", "activity", "--wild_type", WILD_TYPE]
    words += ["--task", "regression", "--mutations_column", "mutant"]
    single, _ = run(saved, *words)
    grouped, baseline = run(saved, *words, "--group_column", "clade")
    assert list(single["figures"]["test"]) == list(baseline["figures"]["test"]) == ["spearman"]
    assert single["resampled"]["test"]["unit"] == "variants of one wild type"
    assert grouped["resampled"]["test"] == {"unit": "groups of clade", "groups": 3, "without": 0}
    mutant, _ = run(saved, *words, "--marginals", "mutant")
    assert mutant["method"] == "zero-shot, mutant marginals"
    assert mutant["figures"]["test"]["spearman"]["value"] != single["figures"]["test"]["spearman"]["value"]
