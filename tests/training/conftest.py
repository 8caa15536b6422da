import functools

import datasets
import pytest

from tests.helpers.trainer_helpers import build_trainer


@pytest.fixture
def dataset(proteins):
    return datasets.Dataset.from_dict({"id": [str(i) for i in range(40)], "sequence": proteins[:400:10]})


@pytest.fixture
def make_trainer(tmp_path, tokenizer, make_encoder, make_noiser, dataset):
    """A trainer of tiny networks; `masking="random"` has no noiser."""
    return functools.partial(build_trainer, tmp_path, tokenizer, make_encoder, make_noiser, dataset)
