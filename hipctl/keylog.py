"""Shell: the file with the keys of every exchange, for debugging only."""

import logging
import os
import stat
from collections import Counter
from pathlib import Path

from hipctl.errors import KeyFileRefused

_log = logging.getLogger(__name__)


class KeyLogFile:
    """From ``open`` to ``close``; lines before and after are lost.

    Args:
        counters: of lines that could not be written.
    """

    def __init__(self, counters: Counter[str]) -> None:
        self._counters = counters
        self._descriptor: int | None = None

    def open(self, path: Path) -> None:
        """Begin; raises as ``open_keylog``."""
        self._descriptor = open_keylog(path)

    def close(self) -> None:
        """End; harmless when done twice."""
        if self._descriptor is not None:
            os.close(self._descriptor)
            self._descriptor = None

    def write(self, line: str) -> None:
        """Append a line."""
        if self._descriptor is not None:
            try:
                os.write(self._descriptor, line.encode() + b"\n")
            except OSError:
                self._counters["key log not written"] += 1


def open_keylog(path: Path) -> int:
    """Open the key log for appending, readable by its owner only; say so in the log.

    Raises:
        KeyFileRefused: it cannot be written, or others could read what is written.
    """
    _log.warning("writing the keys of every association to %s: anybody with it reads them", path)
    try:
        flags = os.O_WRONLY | os.O_APPEND | os.O_CREAT | os.O_NOFOLLOW | os.O_NONBLOCK
        descriptor = os.open(path, flags, 0o600)
    except OSError as error:
        raise KeyFileRefused(f"{path}: {error.strerror}; choose another file") from None
    found = os.fstat(descriptor)
    if not stat.S_ISREG(found.st_mode) or found.st_uid != os.geteuid():
        os.close(descriptor)
        raise KeyFileRefused(f"{path} is no file of yours; choose another file")
    os.fchmod(descriptor, 0o600)  # it may have been there, for all to read
    return descriptor
