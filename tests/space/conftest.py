import pytest

from adversarial_mlm import build_protein_tokenizer
from tests.helpers.trained_run import save_run


@pytest.fixture(scope="session")
def trained(tmp_path_factory) -> str:
    """The folder of a run in miniature, whose encoder reads 62 residues at once."""
    return save_run(tmp_path_factory.mktemp("run"), build_protein_tokenizer(64))
