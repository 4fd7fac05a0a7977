"""Figures at the end of a run; a ladder of packets where a test fails whose fixture is a lab."""

from collections.abc import Generator
from contextlib import ExitStack

import pytest
from net.home import Home
from net.lab_capture import ladder
from net.lab_internet import Internet
from net.lan import Lan
from net.summary import TOLD, Tell


@pytest.fixture
def tell(pytestconfig: pytest.Config) -> Tell:
    """Puts a line into the summary."""
    told = pytestconfig.stash.setdefault(TOLD, {})
    return lambda title, line: told.setdefault(title, []).append(line)


@pytest.hookimpl(wrapper=True)
def pytest_pyfunc_call(pyfuncitem: pytest.Function) -> Generator[None, object, object]:
    """Watch the lab that a fixture has made, as long as the test runs."""
    with ExitStack() as stack:
        for made in pyfuncitem.funcargs.values():
            for lab in made if isinstance(made, tuple) else (made,):
                if isinstance(lab, Home | Internet | Lan):
                    stack.enter_context(ladder(lab))
        return (yield)


def pytest_terminal_summary(terminalreporter: pytest.TerminalReporter) -> None:
    """Say what was measured."""
    for title, lines in terminalreporter.config.stash.get(TOLD, {}).items():
        terminalreporter.section(title)
        for line in lines:
            terminalreporter.write_line(line)
