import inspect
import pickle
import signal

import pytest
from torch._utils import ExceptionWrapper

import adversarial_mlm.data
import adversarial_mlm.downstream.task_trainer
import adversarial_mlm.models.loading
import adversarial_mlm.recipes.recipe
import adversarial_mlm.recipes.yaml_file
import adversarial_mlm.saving.hub
import adversarial_mlm.training.update_guard
import adversarial_mlm.utils.atomic_files
import adversarial_mlm.utils.extras
from adversarial_mlm.utils import errors
from adversarial_mlm.utils.errors import AdversarialMLMError, CorpusError, clip, one_line, redact, shorten

TOKEN = "hf_abcdefghijklmnopqrst"

# where each exception was defined at first, and is still imported from
HOMES = {
    "CheckpointError": (adversarial_mlm.models.loading, ValueError),
    "CorpusError": (adversarial_mlm.data, ValueError),
    "DivergenceError": (adversarial_mlm.downstream.task_trainer, ValueError),
    "MissingPackageError": (adversarial_mlm.utils.extras, ImportError),
    "NonFiniteError": (adversarial_mlm.training.update_guard, RuntimeError),
    "PushError": (adversarial_mlm.saving.hub, RuntimeError),
    "RecipeError": (adversarial_mlm.recipes.recipe, ValueError),
    "WritingError": (adversarial_mlm.utils.atomic_files, RuntimeError),
}


@pytest.mark.parametrize("name", HOMES)
def test_one_base_and_the_old_imports_and_except_clauses(name):
    home, second_base = HOMES[name]
    error = getattr(errors, name)
    assert getattr(home, name) is error
    assert issubclass(error, AdversarialMLMError) and issubclass(error, (ValueError, second_base))
    again = pickle.loads(pickle.dumps(error("the reason")))
    assert type(again) is error and str(again) == "the reason"


def test_every_error_is_listed_here():
    found = {name for name, value in inspect.getmembers(errors, inspect.isclass) if issubclass(value, BaseException)}
    assert found == {*HOMES, "AdversarialMLMError", "Interrupted"}


def test_a_request_to_stop_is_not_swallowed_as_an_error():
    with pytest.raises(errors.Interrupted) as stop:
        try:
            raise errors.Interrupted(signal.SIGTERM)
        except (Exception, AdversarialMLMError):
            pytest.fail("a signal was taken for an error")
    assert stop.value.signal is signal.SIGTERM and isinstance(stop.value, KeyboardInterrupt)


def test_an_error_of_a_loader_worker_keeps_its_own_sentence():
    try:
        raise CorpusError("a.fasta: line 3\nis damaged.")
    except CorpusError:
        wrapper = ExceptionWrapper(where="in DataLoader worker process 0")
    with pytest.raises(CorpusError) as caught:
        wrapper.reraise()
    assert str(caught.value) == "a.fasta: line 3 is damaged."


def test_one_line():
    assert one_line(ValueError("two\n  lines.")) == "two lines"
    assert one_line(ValueError("contains 'a  b'\n\n")) == "contains 'a  b'", "blanks in a quotation are shown"
    assert one_line(KeyError()) == "KeyError"


def test_long_and_foreign_texts():
    assert clip("abcd", 4) == "abcd" and clip("abcde", 4) == "abcd..."
    assert shorten("\n α\t\r\n") == r"' \u03b1\t'", "blanks are shown, because they may be what is wrong"
    assert shorten("x" * 41) == "'" + "x" * 40 + "...'"


@pytest.mark.parametrize(
    "text, secrets, expected",
    [
        (f"token {TOKEN}, sent", (), "token hf_..., sent"),
        ("hf_short is a name", (), "hf_short is a name"),
        ("key s3cret, twice: s3cret", ("s3cret", None, ""), "key ..., twice: ..."),
        ("at https://a.org/b?X-Sign=1&c=2 and http://c.org/d", (), "at https://a.org/b?... and http://c.org/d"),
        ("is this a question?yes", (), "is this a question?yes"),
    ],
)
def test_secrets_are_hidden(text, secrets, expected):
    assert redact(text, secrets) == expected
