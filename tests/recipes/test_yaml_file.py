"""What the versions 1.1 and 1.2 of YAML read differently."""

import pytest
import yaml

from adversarial_mlm.recipes.recipe import parse_recipe, recipe_of
from adversarial_mlm.recipes.yaml_file import read_yaml
from adversarial_mlm.utils.errors import RecipeError

GOOD = {"train_data": "a", "output_dir": "x", "use_cpu": True}


@pytest.fixture
def read(tmp_path):
    """Read one value of a YAML file, as `option: TEXT`."""

    def read(text: str, name: str = "option"):
        (tmp_path / "mine.yaml").write_text(f"{name}: {text}\n")
        return read_yaml(str(tmp_path / "mine.yaml"))[name]

    return read


@pytest.fixture
def option(read):
    """The value of an option of a recipe with the line `NAME: TEXT`."""

    def option(name: str, text: str):
        recipe = recipe_of({**GOOD, name: read(text, name)}, [], "mine.yaml")
        parts = (recipe.data, recipe.model, recipe.masking, recipe.run, recipe.probe, recipe.training)
        return next(getattr(part, name) for part in parts if hasattr(part, name))

    return option


@pytest.mark.parametrize("text", ["on", "Off", "yes", "NO", "y", "1:30", "1:30:00", "010", "1_000", "0b11", "0o17"])
def test_what_the_versions_of_yaml_read_differently_is_the_text_that_was_written(read, text):
    assert read(text) == text
    assert read(f'"{text}"') == text and read(f"[{text}]") == [text] and read(f"{{a: {text}}}") == {"a": text}


@pytest.mark.parametrize("text", ["2020-01-01", "2001-12-14t21:59:43.10-05:00", "=", "1e5", "1.5e3", "<<"])
def test_dates_and_others_are_texts_too(read, text):
    assert read(text) == text


@pytest.mark.parametrize(
    "text", ["true", "FALSE", "null", "~", "", "12", "-3", "+4", "0x1F", "1.5", "5.", ".5", ".inf"]
)
def test_what_they_read_in_the_same_way_is_read_so(read, text):
    found, expected = read(text), yaml.safe_load(text)
    assert found == expected and isinstance(found, type(expected))


@pytest.mark.parametrize(
    ("name", "text", "value"),
    [
        *(("streaming", text, True) for text in ("on", "yes", "true", "On", "1")),
        *(("learned_options", text, False) for text in ("off", "no", "NO", "false", '"no"')),
        *(("seed", text, 10) for text in ("10", "010", "1_0", "+10", "0xA", "0o12", '"10"')),
        *(("learning_rate", text, 1e-5) for text in ("1e-5", "1.e-5", "1.0e-5", "0.00001", '"1e-5"')),
        *(("learning_rate", text, 0.5) for text in (".5", "5.e-1", "0.5")),
        ("learning_rate", "5.", 5.0),
        *(("eval_strategy", text, "no") for text in ("no", "off", "No", "false")),
        *(("data_license", text, text) for text in ("NO", "no", "010", "1e-5", "1:30", "2020-01-01", "1.10", "0x1F")),
        ("model_license", "NO", None),
        ("run_name", "1_000", "1_000"),
        ("dataset_config", "1.10", "1.10"),
        ("lr_scheduler_kwargs", "{a: 1e-5, b: [.5, 5., 010, 1_000, 0x1F], c: true, d: 1:30}",
         {"a": 1e-5, "b": [0.5, 5.0, 10, 1000, 31], "c": True, "d": "1:30"}),
        ("mask_options", "[1e-1, .5, 4e-1]", [0.1, 0.5, 0.4]),
        ("resume_from_checkpoint", "no", None),
    ],
)  # fmt: skip
def test_an_option_reads_its_text_as_yaml_1_2_does(option, name, text, value):
    if name == "model_license":
        with pytest.raises(RecipeError, match="model_license 'no' is not a licence"):
            option(name, text)
        return
    found = option(name, text)
    assert found == value and isinstance(found, type(value))


@pytest.mark.parametrize(
    ("name", "text", "sentence"),
    [
        ("seed", "1:30", "mine.yaml: seed must be a whole number, got '1:30'"),
        ("max_steps", "2020-01-01", "mine.yaml: max_steps must be a whole number, got '2020-01-01'"),
        ("max_steps", "on", "mine.yaml: max_steps must be a whole number, got 'on'"),
        ("learning_rate", "0b11", "mine.yaml: learning_rate must be a number, got '0b11'"),
        ("lr_scheduler_kwargs", "{a: {b: on}}", "mine.yaml: lr_scheduler_kwargs.a.b is on, which may be a boolean"),
        ("accelerator_config", "{even_batches: no}", "mine.yaml: accelerator_config.even_batches is no, which may be"),
    ],
)
def test_a_text_that_the_option_does_not_take_is_refused_by_name(option, name, text, sentence):
    with pytest.raises(RecipeError) as error:
        option(name, text)
    assert str(error.value).startswith(sentence)


def test_names_are_what_was_written(tmp_path):
    path = tmp_path / "mine.yaml"
    path.write_text("arms: {no: 1, 1e-4: 2, 010: 3, 1.10: 4, null: 5}\n")
    assert read_yaml(str(path)) == {"arms": {"no": 1, "1e-4": 2, "010": 3, "1.10": 4, "null": 5}}


@pytest.mark.parametrize(
    ("text", "sentence"),
    [
        ("a: 1\n'a': 2\n", "the option 'a' is given twice, in lines 1 and 2"),
        ("a:\n  b: 1\n  b: 2\n", "the option 'b' is given twice, in lines 2 and 3"),
        ("a: &x [1]\nb: *x\n", "line 1: aliases of lists and mappings are not supported"),
        ("a: &x {c: 1}\nb:\n  <<: *x\n", "line 1: aliases of lists and mappings are not supported"),
        ("a:\n\t- 1\n", "line 2: found character"),
        ("a: 1\nlearning_rate 3\nb: 2\n", "line 2: write `option: value`, with a colon and a space"),
        ("a: !!int 99:x\n", "line 1: a value does not fit its tag"),
        ("b: 1\na: !!python/name:os.system x\n", "line 2: could not determine a constructor"),
        ("a: 1\n---\nb: 2\n", "line 2: but found another document"),
        ("b: 1\nseed: " + "9" * 5000 + "\n", "line 2: a value does not fit its tag"),
    ],
)
def test_what_cannot_be_read_is_refused_with_file_and_line(tmp_path, text, sentence):
    path = tmp_path / "mine.yaml"
    path.write_text(text)
    with pytest.raises(RecipeError) as error:
        read_yaml(str(path))
    assert f"cannot read the recipe {path}: {sentence}" in str(error.value)


def test_an_alias_of_a_number_is_read(tmp_path):
    (tmp_path / "mine.yaml").write_text("a: &x 010\nb: *x\n")
    assert read_yaml(str(tmp_path / "mine.yaml")) == {"a": "010", "b": "010"}


def test_a_recipe_that_was_saved_keeps_texts_that_look_like_numbers(tmp_path):
    (tmp_path / "mine.yaml").write_text(
        f"train_data: a\noutput_dir: {tmp_path}/x\nuse_cpu: true\ndata_license: '1e-4'\nrun_name: 0x1F\n"
        "model_revision: '1.10'\nmodel_name_or_path: m\n"
    )
    recipe = parse_recipe([str(tmp_path / "mine.yaml")])
    again = parse_recipe([recipe.save(str(tmp_path / "saved"))])
    assert (again.data.data_license, again.training.run_name, again.model.model_revision) == ("1e-4", "0x1F", "1.10")
