"""The tables of options on the site say what the parsers say."""

import pytest

from adversarial_mlm.cli.main import COMMANDS
from adversarial_mlm.downstream.arguments import OPTIONS as EVALUATE_OPTIONS
from adversarial_mlm.recipes.recipe import OPTIONS as TRAIN_OPTIONS
from docs_hooks.options import OTHERS, tables


@pytest.mark.parametrize(("command", "options"), [("train", TRAIN_OPTIONS), ("evaluate", EVALUATE_OPTIONS)])
def test_every_option_has_one_row_with_its_help(command, options):
    text = tables(command)
    for name, field in options.fields.items():
        assert text.count(f"| `{name}` |") == 1, name
        help_text = " ".join((field.metadata.get("help") or "").split()).replace("%%", "%")
        assert help_text[1:].replace("|", "\\|") in text, name
    assert "| `holdout_random` | `0.0` | Share to hold out at random" in tables("train")


def test_every_other_command_has_its_section_with_its_options():
    text = tables(OTHERS)
    assert [f"## {name}" for name in COMMANDS if name != "train"] == [
        line for line in text.splitlines() if line.startswith("## ")
    ]
    assert "| `--overwrite` | `false` | Also replace a card that you have changed |" in text
