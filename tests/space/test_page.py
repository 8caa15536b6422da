"""The page without a browser: what it consists of, and where it listens."""

import socket
import urllib.request

import pytest

from adversarial_mlm.space.networks import NetworkStore
from adversarial_mlm.utils.errors import RecipeError

gradio = pytest.importorskip("gradio")

from adversarial_mlm.space.page import LOCAL, build_page, launch  # noqa: E402


@pytest.fixture(scope="module")
def page(trained):
    page = build_page(NetworkStore(trained, device="cpu"))
    yield page
    page.close(verbose=False)


def of_kind(page, kind: str) -> list[dict]:
    return [part["props"] for part in page.config["components"] if part["type"] == kind]


def test_every_field_has_a_label_and_every_button_a_text(page):
    fields = of_kind(page, "textbox") + of_kind(page, "number")
    assert {field["label"] for field in fields} == {"Model", "Protein", "Residues that you mask", "Seed"}
    assert all(button["value"] for button in of_kind(page, "button"))
    labels = [tab["label"] for tab in of_kind(page, "tabitem")]
    assert labels == ["Attacks", "Compare", "Substitutions"]


def test_no_event_can_be_called_from_outside_of_the_page(page):
    assert {event["api_visibility"] for event in page.config["dependencies"]} == {"private"}


@pytest.mark.parametrize(
    "sent", [None, 3, [1], {}, {"number": "2"}, {"number": 2.5}, {"number": None}, {"number": True}]
)
def test_a_click_without_a_number_changes_nothing(page, sent):
    choose = next(event.fn for event in page.fns.values() if event.name == "choose")
    assert choose(None, 1, gradio.EventData(None, sent)) == (gradio.skip(), gradio.skip(), gradio.skip(), 1)
    assert choose(None, 1, gradio.EventData(None, {"number": 2}))[-1] == 2  # positions are missing
    assert choose(None, 3, gradio.EventData(None, {"number": 2, "positions": [1]}))[-1] == 3


def test_a_public_page_has_no_field_for_a_model(trained):
    page = build_page(NetworkStore(trained, device="cpu", only_default=True))
    assert [field["visible"] for field in of_kind(page, "textbox") if field["label"] == "Model"] == [False]


def test_the_page_listens_on_this_machine_only_and_refuses_a_port_in_use(page, monkeypatch):
    monkeypatch.setenv("GRADIO_SERVER_NAME", "0.0.0.0")
    with socket.socket() as taken:
        taken.bind((LOCAL, 0))
        taken.listen()
        port = taken.getsockname()[1]
        with pytest.raises(RecipeError, match=f"--port is {port}, which cannot be used"):
            launch(page, port=port)
    address = launch(page)
    assert address.startswith(f"http://{LOCAL}:") and not page.share
    with urllib.request.urlopen(address, timeout=10) as answer:
        assert answer.status == 200
