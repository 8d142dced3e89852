"""Test parameters that take long, and are left to the long run (`pytest -m long`, which .ci/run makes)."""

import pytest
from _pytest.mark import ParameterSet


def long_only(*values: object) -> list[ParameterSet]:
    """Return values of a parameter for which a test runs in the long run only."""
    return [pytest.param(value, marks=pytest.mark.long) for value in values]
