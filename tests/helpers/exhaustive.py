"""Cases that only `make test-all` runs."""

import pytest


def exhaustive(*values, **options):
    """A case of `pytest.mark.parametrize` that only `make test-all` runs, because a similar case is always run.

    Args:
        values: The values of the case's parameters.
        options: Passed to `pytest.param`; `id` names the case.
    """
    return pytest.param(*values, marks=pytest.mark.exhaustive, **options)
