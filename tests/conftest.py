"""What a run skipped is said at its end, with what would help; in CI a skip is a failure."""

import gc
import os
from collections import Counter
from collections.abc import Generator
from typing import Any

import pytest

IN_CI = os.environ.get("CI", "").lower() in {"1", "true", "yes"}

PACKAGES = {  # program -> Debian package
    "baresip": "baresip-core",
    "ip": "iproute2",
    "linphonec": "linphone-cli",
    "miniupnpd": "miniupnpd-nftables",
    "nft": "nftables",
    "sipp": "sip-tester",
    "tshark": "tshark",
}


def pytest_collection_finish() -> None:
    """What all tests share stays: the collector need not look through it again and again."""
    gc.collect()
    gc.freeze()


@pytest.hookimpl(wrapper=True)
def pytest_runtest_makereport(
    item: pytest.Item, call: pytest.CallInfo[None]
) -> Generator[None, pytest.TestReport, pytest.TestReport]:
    """Turn a skip into a failure where every program should be there."""
    report = yield
    if IN_CI and report.skipped and not hasattr(report, "wasxfail"):
        report.outcome = "failed"
        report.longrepr = f"skipped, which counts as failed here: {_reason(report)}"
    return report


def _reason(report: Any) -> str:
    longrepr = report.longrepr
    text = str(longrepr[2]) if isinstance(longrepr, tuple) else str(longrepr)
    return text.removeprefix("Skipped: ")


def pytest_terminal_summary(terminalreporter: pytest.TerminalReporter) -> None:
    """Say what was skipped, and the line that would help."""
    skipped = terminalreporter.stats.get("skipped", [])
    if not skipped:
        return
    reasons = Counter(map(_reason, skipped))
    terminalreporter.section("what was skipped")
    for reason, count in reasons.most_common():
        terminalreporter.write_line(f"{count} × {reason}")
    missing = sorted(
        {PACKAGES[p] for p in PACKAGES if any(r.startswith(f"{p} is") for r in reasons)}
    )
    if missing:
        line = f"apt-get install -y --no-install-recommends {' '.join(missing)}"
        terminalreporter.write_line(f"this would help: {line}")
