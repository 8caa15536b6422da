import pytest

from adversarial_mlm.cli.main import main
from tests.reports.conftest import quick, write_run  # noqa: F401


def test_a_report_is_written_and_its_page_is_named(write_run, quick, capsys):  # noqa: F811
    pytest.importorskip("matplotlib")
    folder = write_run()
    assert main(["report", folder]) == 0
    assert f"{folder}/report.html: open it in a browser" in capsys.readouterr().out


@pytest.mark.parametrize(
    ("words", "sentence"),
    [
        (["nowhere"], "nowhere does not exist: give the folder of a run or of a comparison"),
        ([], "the following arguments are required: run"),
    ],
)
def test_a_mistake_is_one_sentence(capsys, words, sentence):
    assert main(["report", *words]) == 2
    said = capsys.readouterr().err
    assert sentence in said and len(said.strip().splitlines()) == 1
