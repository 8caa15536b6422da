import pytest

from tests.helpers.trained_run import save_run


@pytest.fixture(scope="session")
def trained(tmp_path_factory, tokenizer) -> str:
    """The folder of a run: an encoder and a `blind` noiser of a few thousand random weights, with a recipe."""
    return save_run(tmp_path_factory.mktemp("run"), tokenizer)
