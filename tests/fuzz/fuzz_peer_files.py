"""Fuzz target: what the peer's own files and its control socket may hold.

Run with ``PYTHONPATH=.:tests python tests/fuzz/fuzz_peer_files.py -max_total_time=60``.
"""

import sys
import tempfile
from contextlib import suppress
from pathlib import Path

from overlay.contacts import ContactBook
from overlay.control import ControlRefused, parse_request
from overlay.errors import ConfigError
from overlay.trace import CallTrace, waterfall

FILE = Path(tempfile.mkdtemp(prefix="p2psip-fuzz-")) / "contacts.toml"
SEEDS = [
    b'blocked = ["sip:eve@example.org"]\n[names]\nmum = "sip:alice@example.org"\n',
    b'{"do": "resolve", "aor": "sip:alice@example.org"}\n',
    b'{"do": "x", "call": "a", "began": 1, "steps": [{"step": "a", "ms": 1, "detail": ""}]}',
]


def test_one_input(data: bytes) -> None:
    """A contact file is a book that survives being written again, or a sentence."""
    FILE.write_bytes(data)
    with suppress(ConfigError):
        before = ContactBook(FILE)
        names, blocked = before.names(), before.blocked()
        before.block("sip:eve@example.org")
        after = ContactBook(FILE)
        assert after.names() == names
        assert after.blocked() == blocked | {"sip:eve@example.org"}
    with suppress(ControlRefused):
        request = parse_request(data)
        with suppress(ValueError):
            call = CallTrace.from_json(request)
            lines = waterfall(call)
            assert len(lines) == len(call.marks) + 1


if __name__ == "__main__":
    import atheris

    atheris.instrument_all()
    atheris.Setup(sys.argv, test_one_input)
    atheris.Fuzz()
