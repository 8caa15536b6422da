import base64
import csv
import io
import re
import shutil

import numpy as np
import pytest

from adversarial_mlm.inference.mask_comparison import compare_masks
from adversarial_mlm.inference.masked_answers import answers_if_masked, top_residues
from adversarial_mlm.inference.mutant_tables import saturation_matrix
from adversarial_mlm.models.tokenization_protein import STANDARD_RESIDUES
from adversarial_mlm.space.logic import PageLogic
from adversarial_mlm.space.networks import NetworkStore

PROTEIN = "MKTAYIAKQRQISFVKSHFSRQLEERLGAVWC"
BAD = {"": "There is no protein yet", "ACGTACGTACGTACGT": "DNA or RNA", "123456": "none of its 6 characters"}
BAD |= {"MKTAYIAKQR" * 4000: "The protein has 40,000 residues"}


@pytest.fixture(scope="module")
def logic(trained):
    return PageLogic(NetworkStore(trained))


@pytest.fixture(scope="module")
def networks(logic):
    return logic.store.load()


@pytest.fixture(scope="module")
def shown(logic):
    return logic.show("", PROTEIN)


def labels(html: str) -> list[str]:
    return re.findall(r'<button [^>]*aria-label="([^"]*)"', html)


def rows(html: str) -> list[list[str]]:
    return [re.findall(r"<t[hd][^>]*>(.*?)</t[hd]>", row) for row in re.findall(r"<tr>(.*?)</tr>", html)]


def test_the_track_has_a_button_for_each_residue_that_says_what_is_known_of_it(shown):
    html, found = shown
    view = found.view
    assert re.findall(r'data-position="(\d+)"', html) == [str(number) for number in range(1, 33)]
    assert html.count('tabindex="0"') == 1 and html.count('aria-pressed="false"') == 32
    best = ", ".join(f"{letter} {100 * share:.0f} %" for letter, share in top_residues(view.answers[4]))
    assert labels(html)[4] == (
        f"Y5: masked {100 * view.probability[4]:.0f} % of the time, always [MASK]; the encoder answers {best}; "
        f"entropy {view.entropy[4]:.2f} nats"
    )
    bars = [float(share) for share in re.findall(r"--bar:([\d.]+)", html)]
    np.testing.assert_allclose(bars, view.probability / view.probability.max(), atol=6e-4)
    assert "The noiser masks 6 of 32 residues" in html and "it always writes [MASK]" in html


def test_a_second_answer_is_another_one_for_the_browser(logic, shown):
    again, _ = logic.show("", PROTEIN)
    assert again != shown[0] and re.sub("data-shown.*?>", "", again) == re.sub("data-shown.*?>", "", shown[0])


@pytest.mark.parametrize("text", BAD)
def test_wrong_input_is_answered_by_one_sentence_in_every_tab(logic, text):
    html, found = logic.show("", text)
    assert found is None
    for answer in (html, logic.compare("", text, 0), logic.substitutions("", text)):
        assert BAD[text] in answer and 'role="alert"' in answer and "Traceback" not in answer and len(answer) < 400


def test_what_a_person_pastes_is_never_part_of_the_page_as_it_is(logic):
    for answer in (
        logic.show("<b>x</b>", PROTEIN)[0],
        logic.show("", "<b>1</b>")[0],
        logic.mask_written(None, "<b>")[1],
    ):
        assert "<b>" not in answer and 'role="alert"' in answer


def test_the_table_compares_the_answers_alone_and_together(logic, shown, networks):
    _, found = shown
    words, html = logic.mask_chosen(found, [3, 4, 21])
    together = answers_if_masked(networks.model, networks.tokenizer, PROTEIN, [2, 3, 20])
    table = rows(html)
    assert words == "3-4, 21" and [row[0] for row in table[1:]] == ["T3", "A4", "R21"]
    for row, position, answers in zip(table[1:], (2, 3, 20), together.answers, strict=True):
        for column, shares in ((1, found.view.answers[position]), (3, answers)):
            assert row[column].startswith(f"{STANDARD_RESIDUES[shares.argmax()]} {100 * shares.max():.0f} %")
        at = np.exp(-together.loss[(together.positions == position).argmax()])
        assert row[5] == f"{100 * np.exp(-found.view.loss[position]):.0f} % → {100 * at:.0f} %"


def test_positions_can_be_written(logic, shown):
    _, found = shown
    words, html, masked = logic.mask_written(found, "21 3-4")
    assert (words, masked) == ("3-4, 21", [3, 4, 21]) and html == logic.mask_chosen(found, [3, 4, 21])[1]
    words, html, masked = logic.mask_written(found, "33")
    assert (words, masked) == ("33", []) and "33 is not in the protein" in html and 'role="alert"' in html
    assert "No residue is masked by you" in logic.mask_written(found, "")[1]
    assert "There is no protein yet: show" in logic.mask_written(None, "3")[1]


def test_a_browser_that_sends_nonsense_gets_no_traceback(logic, shown):
    for chosen in (None, "3", [0, -1, 33, "3", None, 2.5, True], {"a": 1}):
        words, html = logic.mask_chosen(shown[1], chosen)
        assert words == "" and "No residue is masked by you" in html


def test_both_kinds_of_masks_are_shown_with_the_loss_at_each(logic, networks):
    html = logic.compare("", PROTEIN, 3)
    found = compare_masks(networks.model, networks.tokenizer, *networks.noiser_and_rules(), PROTEIN, seed=3)
    assert html.count("amlm-masked") == 20 and html.count(">n<") == 6 and html.count(">r<") == 14
    table = {row[0]: row[1:] for row in rows(html)[1:]}
    for index, letter in enumerate(PROTEIN):
        cells = table.pop(f"{letter}{index + 1}", ["not masked", "not masked"])
        for cell, kind in zip(cells, (found.random, found.learned), strict=True):
            assert cell.startswith(f"{kind.loss[0, index]:.2f} (" if kind.masked[0, index] else "not masked")
    assert not table and "Both kinds mask 10 of 32 residues" in html and "the noiser chooses 6" in html
    difference = np.mean(found.learned.means - found.random.means)
    assert f"The difference is {difference:+.2f} ± " in html and "All masks are [MASK]" in html


@pytest.mark.parametrize(
    "seed, sentence", [(-1, "The seed is -1"), (0.5, "The seed is 0.5"), (2.0**31, "The seed is")]
)
def test_a_seed_that_cannot_be_used_is_refused(logic, seed, sentence):
    assert sentence in logic.compare("", PROTEIN, seed)


def test_the_heat_map_has_a_table_of_the_same_scores(logic, networks):
    html = logic.substitutions("", PROTEIN)
    table = base64.b64decode(re.search(r'href="data:text/tab-separated-values;base64,([^"]*)"', html)[1]).decode()
    picture = base64.b64decode(re.search(r'src="data:image/png;base64,([^"]*)"', html)[1])
    matrix = saturation_matrix(networks.model, networks.tokenizer, PROTEIN)
    read = list(csv.DictReader(io.StringIO(table), delimiter="\t"))
    assert "".join(row["wild_type"] for row in read) == PROTEIN and picture[:4] == b"\x89PNG"
    scores = [[float(row[letter]) for letter in STANDARD_RESIDUES] for row in read]
    np.testing.assert_allclose(scores, matrix, rtol=1e-4)
    best = np.unravel_index(matrix.argmax(), matrix.shape)
    assert f"first {PROTEIN[best[0]]}{best[0] + 1}{STANDARD_RESIDUES[best[1]]} (" in html
    assert f"Of {32 * 19} substitutions, the encoder finds {(matrix > 0).sum()} more probable" in html


def test_unknown_residues_are_shown_but_not_substituted(logic):
    html, found = logic.show("", "mk?" + PROTEIN)
    assert labels(html)[2].startswith("?3: unknown, so never masked by the noiser; the encoder answers ")
    assert "?3" in logic.mask_chosen(found, [3])[1] and "unknown" in logic.mask_chosen(found, [3])[1]
    assert "must be a protein in one-letter code" in logic.substitutions("", "mk?" + PROTEIN)


def test_a_model_without_a_noiser_still_scores_substitutions(logic, trained, tmp_path):
    shutil.copytree(trained, tmp_path / "plain")
    shutil.rmtree(tmp_path / "plain" / "noiser")
    plain = str(tmp_path / "plain")
    assert "without a noiser" in logic.describe(plain)
    for answer in (logic.show(plain, PROTEIN)[0], logic.compare(plain, PROTEIN, 0)):
        assert f"{plain} has no noiser, so only the tab Substitutions can use it" in answer
    assert "amlm-picture" in logic.substitutions(plain, PROTEIN)


def test_a_noiser_that_also_replaces_has_a_sign_for_each_residue(logic, trained, tmp_path, tokenizer, make_noiser):
    shutil.copytree(trained, tmp_path / "mixed")
    (tmp_path / "mixed" / "recipe.yaml").write_text("adversarial_rate: 0.2\nrandom_rate: 0.1\n")
    make_noiser(view="full").save_pretrained(tmp_path / "mixed" / "noiser")
    html, found = logic.show(str(tmp_path / "mixed"), PROTEIN)
    signs = re.findall(r'amlm-sign">(.)<', html)
    assert len(signs) == 32 and "_ by [MASK], = by keeping it" in html
    kinds = found.view.corruption.argmax(axis=1)
    assert [sign == "_" for sign in signs] == (kinds == 0).tolist()
    comparison = logic.compare(str(tmp_path / "mixed"), PROTEIN, 0)
    assert "The noiser also chooses how to mask" in comparison and "At [MASK] alone, the mean is " in comparison
