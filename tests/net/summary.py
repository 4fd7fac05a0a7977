"""What tests have measured, told at the end of a run: how near a limit was, or how far off."""

from collections.abc import Callable

import pytest

Tell = Callable[[str, str], None]
"""``tell(title, line)``: the line stands in the summary under that title."""

TOLD = pytest.StashKey[dict[str, list[str]]]()
