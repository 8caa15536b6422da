"""Links that work on GitHub work on the site, too."""

import pytest

from docs_hooks.links import for_site, in_repository, of_repository, on_site, targets


@pytest.mark.parametrize(
    ("page", "link", "on_the_site"),
    [
        ("index.md", "docs/hub.md", "hub.md"),
        ("index.md", "docs/method.svg", "method.svg"),
        ("index.md", "CITATION.cff", "source/CITATION.cff.md"),
        ("index.md", "adversarial_mlm/recipes/proteins/README.md", "adversarial_mlm/recipes/proteins/README.md"),
        ("hub.md", "../README.md#the-demo", "index.md#the-demo"),
        ("hub.md", "../CONTRIBUTING.md", "CONTRIBUTING.md"),
        ("hub.md", "#what-is-sent", "#what-is-sent"),
        ("hub.md", "../adversarial_mlm/masking/sampling.py#rss", "source/adversarial_mlm/masking/sampling.py.md#rss"),
        ("hub.md", "https://example.org/a.md", "https://example.org/a.md"),
        ("benchmarks/RESULTS.md", "../docs/scaling.md", "../scaling.md"),
        ("model_cards/demo.md", "demo.png", "demo.png"),
    ],
)
def test_a_link_leads_to_the_page_of_the_site(page, link, on_the_site):
    assert for_site(f"See [this]({link}).", page) == f"See [this]({on_the_site})."


def test_code_is_left_alone():
    text = '`[a](../b.md)` and\n\n```text\n[a](../b.md)\n```\n\n[a](../README.md) <img src="method.svg">\n'
    changed = text.replace("[a](../README.md)", "[a](index.md)")
    assert for_site(text, "hub.md") == changed
    assert targets(text) == ["../README.md", "method.svg"]


def test_a_link_out_of_the_repository_is_refused():
    with pytest.raises(ValueError, match=r"docs/hub.md: the link ../../x.md leads out of the repository"):
        in_repository("docs/hub.md", "../../x.md")


@pytest.mark.parametrize("path", ["README.md", "docs/hub.md", "CONTRIBUTING.md", "adversarial_mlm/cli/main.py"])
def test_an_address_leads_back_to_its_file(path):
    assert of_repository(on_site(path)) == path


def test_a_link_that_is_named_by_its_file_gets_the_title_of_the_page():
    text = "See [docs/hub.md](docs/hub.md#what-is-sent-and-when), [the Hub](docs/hub.md) and [hub.md](docs/cards.md)."
    named = "See [*Push*](hub.md#what-is-sent-and-when), [the Hub](hub.md) and [hub.md](cards.md)."
    assert for_site(text, "index.md", {"hub.md": "Push", "cards.md": "Cards"}) == named
