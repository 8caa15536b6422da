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


def test_a_folder_of_runs_names_two_of_them(write_run, tmp_path, capsys):  # noqa: F811
    runs = [write_run(name=name) for name in "ba"]
    assert main(["report", str(tmp_path)]) == 2
    b, a = runs
    assert f"{tmp_path} is not the folder of a run or of a comparison, but {a} and {b} are: adv-mlm report {a}\n" in (
        capsys.readouterr().err
    )
