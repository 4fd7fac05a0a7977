"""Programs that tests with real clients need."""

import shutil

import pytest


def require_program(*names: str) -> None:
    """Skip the test unless these programs are installed; tests/conftest.py tells what helps."""
    for name in names:
        if shutil.which(name) is None:
            pytest.skip(f"{name} is not installed")
