"""The page as a person uses it: in a real Chromium, with the server of `adv-mlm demo`."""

import csv
import re
import urllib.parse

import pytest

from adversarial_mlm.models.tokenization_protein import STANDARD_RESIDUES
from adversarial_mlm.space.pasted import EXAMPLES
from tests.helpers.browser import chromium, served
from tests.helpers.exhaustive import exhaustive

PROTEIN = "MKTAYIAKQRQISFVKSHFSRQLEERLGAVWC"
PATIENCE = 60_000  # milliseconds; an idle machine needs one or two seconds
pytestmark = pytest.mark.slow


@pytest.fixture(scope="module")
def browser():
    with chromium() as browser:
        yield browser


@pytest.fixture(scope="module")
def address(browser, repository, trained):
    pytest.importorskip("gradio", reason="the extra demo is not installed")
    with served(repository, "--model", trained) as address:
        yield address


@pytest.fixture
def open_page(browser, address):
    """Open the page; what it asks of other hosts is refused, and a test fails that saw such a request or an error."""
    contexts, strangers, errors = [], [], []

    def visit(width: int = 1280, height: int = 900):
        context = browser.new_context(viewport={"width": width, "height": height}, accept_downloads=True)
        contexts.append(context)

        def only_here(route):
            if urllib.parse.urlsplit(route.request.url).hostname == "127.0.0.1":
                return route.continue_()
            strangers.append(route.request.url)
            return route.abort()

        context.route(re.compile("^http"), only_here)
        page = context.new_page()
        page.set_default_timeout(PATIENCE)
        page.on("pageerror", lambda error: errors.append(error))
        page.goto(address)
        page.get_by_role("button", name="Show the noiser's masks").wait_for()
        return page

    yield visit
    for context in contexts:
        context.close()
    assert not strangers and not errors


def show(page, text: str) -> None:
    page.get_by_role("textbox", name="Protein").fill(text)
    page.get_by_role("button", name="Show the noiser's masks").click()


def residue(page, name: str):
    return page.get_by_role("button", name=re.compile(f"^{re.escape(name)}: "))


def overflow(page) -> int:
    """How many pixels of the page are to the right of the screen."""
    return page.evaluate("document.documentElement.scrollWidth - document.documentElement.clientWidth")


def test_a_pasted_protein_is_shown_and_clicks_mask_its_residues(open_page):
    page = open_page()
    assert "knows little about proteins" in page.locator("#facts").inner_text()
    show(page, f">one\n{PROTEIN.lower()}")
    residue(page, "M1").wait_for()
    assert page.locator("#track button").count() == 32
    assert "The noiser masks 6 of 32 residues" in page.locator("#track").inner_text()
    residue(page, "Y5").hover()
    assert page.locator(".amlm-detail").inner_text().startswith("Y5: masked ")
    residue(page, "Y5").click()
    residue(page, "I6").click()
    residue(page, "R21").click()
    page.get_by_role("rowheader", name="R21").wait_for()
    table = page.locator("#answers tbody tr")
    assert [row.split("\t")[0] for row in table.all_inner_texts()] == ["Y5", "I6", "R21"]
    assert "all 3 masked" in page.locator("#answers").inner_text()
    assert page.get_by_role("textbox", name="Residues that you mask").input_value() == "5-6, 21"
    residue(page, "I6").click()
    page.get_by_role("rowheader", name="I6").wait_for(state="detached")
    assert page.locator('#track [aria-pressed="true"]').count() == 2
    page.get_by_role("button", name="Show all again").click()
    page.locator("#answers").get_by_text("No residue is masked by you").wait_for()
    assert page.locator('#track [aria-pressed="true"]').count() == 0


def test_no_click_is_lost_while_an_earlier_one_is_answered(open_page):
    page = open_page()
    show(page, PROTEIN)
    residue(page, "M1").wait_for()
    page.evaluate("document.querySelectorAll('#track button[data-position]').forEach((one) => one.click())")
    page.locator("#answers").get_by_text("all 32 masked").wait_for()
    assert page.get_by_role("textbox", name="Residues that you mask").input_value() == "1-32"


def test_a_click_whose_answer_was_lost_is_sent_again(open_page):
    page, sent = open_page(), []
    show(page, PROTEIN)
    residue(page, "M1").wait_for()

    def lose_the_first(route):
        if "number" not in (route.request.post_data or ""):
            return route.fallback()
        sent.append(route)
        return route.fulfill(json={"event_id": "lost"}) if len(sent) == 1 else route.fallback()

    page.route("**/queue/join*", lose_the_first)
    residue(page, "Y5").click()
    page.get_by_role("rowheader", name="Y5").wait_for()
    assert len(sent) == 2


def test_positions_can_be_written_and_are_forgotten_with_the_next_protein(open_page):
    page = open_page()
    show(page, PROTEIN)
    residue(page, "M1").wait_for()
    positions = page.get_by_role("textbox", name="Residues that you mask")
    positions.fill("3 10-12")
    positions.press("Enter")
    page.get_by_role("rowheader", name="I12").wait_for()
    pressed = page.locator('#track [aria-pressed="true"]')
    assert [text[0] for text in pressed.all_inner_texts()] == ["T", "R", "Q", "I"]
    positions.fill("99")
    positions.press("Enter")
    page.get_by_role("alert").get_by_text("99 is not in the protein").wait_for()
    page.get_by_role("button", name=f"Example: {EXAMPLES[0].name}").click()
    page.get_by_role("button", name="Show the noiser's masks").click()
    residue(page, "E3").wait_for()
    assert page.locator("#track button").count() == 77 and pressed.count() == 0 and positions.input_value() == ""


@pytest.mark.parametrize("width", [360, exhaustive(1280)])
def test_wrong_input_is_answered_by_a_sentence_and_the_page_goes_on(open_page, width):
    page = open_page(width)
    for text, sentence in (
        ("", "There is no protein yet"),
        ("ACGTTGCAACGTNNACGTAA", "This looks like DNA or RNA"),
        ("1234567890", "none of its 10 characters can be amino acids"),
        ("MKTAYIAKQR" * 4000, "The protein has 40,000 residues"),
    ):
        show(page, text)
        page.get_by_role("alert").get_by_text(sentence).wait_for()
        assert "Traceback" not in page.locator("body").inner_text() and overflow(page) == 0
        assert page.locator("#track button").count() == 0
    show(page, PROTEIN)
    residue(page, "C32").wait_for()
    assert page.get_by_role("alert").count() == 0


def test_a_protein_of_two_thousand_residues(open_page):
    page = open_page()
    show(page, PROTEIN[:20] * 100)
    residue(page, f"{PROTEIN[19]}2000").wait_for()
    assert page.locator("#track button").count() == 2000 and overflow(page) == 0
    page.locator('[data-position="2000"]').click()
    page.get_by_role("rowheader", name="2000").wait_for()
    assert page.get_by_role("textbox", name="Residues that you mask").input_value() == "2000"


def test_all_works_by_keyboard(open_page):
    page = open_page()

    def tab_to(condition: str, most: int = 25) -> None:
        for _ in range(most):
            page.keyboard.press("Tab")
            if page.evaluate(f"(() => {{ const it = document.activeElement; return {condition}; }})()"):
                return
        raise AssertionError(f"the Tab key does not reach {condition}")

    tab_to("it.closest('#protein') !== null")
    page.keyboard.insert_text(PROTEIN)
    tab_to('it.innerText === "Show the noiser\'s masks"')
    page.keyboard.press("Enter")
    residue(page, "M1").wait_for()
    tab_to("it.dataset.position === '1'")
    focused = "document.activeElement.dataset.position"
    for key, position in (("ArrowRight", "2"), ("ArrowRight", "3"), ("ArrowLeft", "2"), ("End", "32"), ("Home", "1")):
        page.keyboard.press(key)
        assert page.evaluate(focused) == position
    page.keyboard.press("ArrowRight")
    page.keyboard.press("Enter")
    page.get_by_role("rowheader", name="K2").wait_for()
    assert page.evaluate(focused) == "2" and page.locator(".amlm-detail").inner_text().startswith("K2: ")
    page.keyboard.press("ArrowRight")
    page.keyboard.press("Space")
    page.get_by_role("rowheader", name="T3").wait_for()
    assert page.evaluate(focused) == "3"
    tab_to("it.closest('#positions') !== null")  # the whole protein is one stop of the Tab key
    page.keyboard.press("Control+a")
    page.keyboard.insert_text("9")
    page.keyboard.press("Enter")
    page.get_by_role("rowheader", name="Q9").wait_for()
    assert page.locator('#track [aria-pressed="true"]').count() == 1


def test_arrow_keys_go_to_the_lines_above_and_below(open_page):
    page = open_page(360, 700)
    show(page, PROTEIN)
    residue(page, "M1").wait_for()
    page.locator('[data-position="1"]').focus()
    left = "document.activeElement.getBoundingClientRect().left"
    before = page.evaluate(left)
    page.keyboard.press("ArrowDown")
    below = int(page.evaluate("document.activeElement.dataset.position"))
    assert below > 5 and abs(page.evaluate(left) - before) < 5
    page.keyboard.press("ArrowUp")
    assert page.evaluate("document.activeElement.dataset.position") == "1"


def test_random_and_learned_masks_stand_below_one_another_on_a_narrow_screen(open_page):
    page = open_page(360, 700)
    show(page, PROTEIN)
    residue(page, "M1").wait_for()
    page.locator('[data-position="3"]').click()
    page.get_by_role("rowheader", name="T3").wait_for()
    assert overflow(page) == 0
    page.get_by_role("tab", name="Compare").click()
    page.get_by_label("Seed").fill("7")
    page.get_by_role("button", name="Compare random with learned masks").click()
    page.get_by_role("heading", name="The noiser's masks: mean").wait_for()
    tracks = page.locator("#comparison .amlm-track")
    assert tracks.count() == 2 and tracks.nth(0).locator(".amlm-masked").count() == 10
    assert tracks.nth(1).bounding_box()["y"] > tracks.nth(0).bounding_box()["y"] and overflow(page) == 0
    page.get_by_text("All masked residues as a table").click()
    assert page.locator("#comparison tbody tr").count() >= 10 and overflow(page) == 0


def test_the_heat_map_can_be_downloaded_as_a_table(open_page, tmp_path):
    page = open_page(360, 700)
    page.get_by_role("textbox", name="Protein").fill(PROTEIN)
    page.get_by_role("tab", name="Substitutions").click()
    page.get_by_role("button", name="Score all substitutions").click()
    page.get_by_role("img", name=re.compile("^Heat map")).wait_for()
    assert overflow(page) == 0
    with page.expect_download() as download:
        page.get_by_role("link", name="Download the table (TSV)").click()
    assert download.value.suggested_filename == "substitutions.tsv"
    download.value.save_as(tmp_path / "table.tsv")
    with open(tmp_path / "table.tsv", newline="") as file:
        rows = list(csv.DictReader(file, delimiter="\t"))
    assert list(rows[0]) == ["position", "wild_type", *STANDARD_RESIDUES]
    assert "".join(row["wild_type"] for row in rows) == PROTEIN and float(rows[0]["M"]) == 0
