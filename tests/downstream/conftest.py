"""Tasks: those of TAPE in the layouts in which TAPE publishes them, and small ones that can be learned."""

import os
from pathlib import Path

import pytest

from tests.helpers.tape_files import learnable, tape_records, write_split, write_task  # noqa: F401
from tests.helpers.toy_tasks import toy_task


@pytest.fixture(scope="session")
def real_data(repository):
    """The folder with the published data, if it is there."""
    folder = Path(os.environ.get("ADVERSARIAL_MLM_DATA", repository.parent / "shared" / "data"))
    if not folder.is_dir():
        pytest.skip("the published data are not here; ADVERSARIAL_MLM_DATA names their folder")
    return folder


@pytest.fixture
def task(tmp_path):
    """A toy task of a kind, small unless said otherwise."""

    def task(kind="regression", **options):
        return toy_task(tmp_path / f"data-{kind}", kind, **{"train": 40, "others": 12, **options})

    return task
