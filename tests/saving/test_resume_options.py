"""The table of options: complete, and shown in the documentation."""

from collections import Counter

from adversarial_mlm.recipes.recipe import OPTIONS
from adversarial_mlm.saving.resume_options import Effect, documentation, known_options, rule_of


def test_every_option_of_a_recipe_is_in_the_table_once():
    counts = Counter(known_options())
    assert counts.keys() == set(OPTIONS.fields)
    assert set(counts.values()) == {1}


def test_the_page_on_resuming_shows_the_table(repository):
    page = (repository / "docs" / "resuming.md").read_text()
    assert f"\n\n{documentation()}\n\n" in page


def test_an_option_that_a_later_library_adds_is_warned_of():
    assert rule_of("an_option_of_tomorrow").effect is Effect.WARNS
