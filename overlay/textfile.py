"""Small text files that came from somewhere: read with a limit, written as a whole."""

import base64
import binascii
import contextlib
import errno
import fcntl
import os
import time
import tomllib
from collections.abc import Iterator
from pathlib import Path
from typing import Any, Final

from overlay.constants import TEXT_FILE_LIMIT
from overlay.errors import CredentialsRefused

LOCK_SECONDS: Final = 10.0  # for which a folder may be locked by others
LOCK_LOOK: Final = 0.02  # seconds between two tries
_NO_LOCKS: Final = frozenset((errno.EBADF, errno.EINVAL, errno.ENOLCK, errno.EOPNOTSUPP))
MAX_DOTS: Final = 256  # in a line: tomllib takes quadratic time for a dotted key


def parse_toml(text: str) -> dict[str, Any]:
    """Parse TOML, whatever it holds.

    Raises:
        ValueError: it is none, nested or dotted beyond reason, or holds an integer of more than
            64 bits (TOML promises no more, and Python won't print one of 5,000 digits).
    """
    if text.count(".") > MAX_DOTS:
        for line in text.split("\n"):  # splitlines ends lines where TOML does not
            if line.count(".") > MAX_DOTS and not line.lstrip().startswith("#"):
                raise ValueError(f"a line has more than {MAX_DOTS} dots")
    try:
        table = tomllib.loads(text)
    except RecursionError:
        raise ValueError("nested too deeply") from None
    values: list[Any] = [table]
    while values:
        value = values.pop()
        if type(value) is int and not -(2**63) <= value < 2**63:
            raise ValueError("an integer of more than 64 bits")
        if isinstance(value, dict):
            values.extend(value.values())
        elif isinstance(value, list):
            values.extend(value)
    return table


def read_text(path: Path) -> str:
    """Read a small text file.

    Raises:
        CredentialsRefused: it is missing, too long or no UTF-8.
    """
    try:
        with path.open("rb") as file:
            data = file.read(TEXT_FILE_LIMIT + 1)
        if len(data) > TEXT_FILE_LIMIT:
            raise CredentialsRefused(f"{path}: longer than {TEXT_FILE_LIMIT} bytes")
        return data.decode()
    except OSError as error:
        raise CredentialsRefused(f"{path}: {error.strerror}") from None
    except UnicodeDecodeError:
        raise CredentialsRefused(f"{path}: no UTF-8 text") from None


def write_text(path: Path, text: str) -> None:
    """Write a text file, as a whole or not at all.

    Raises:
        CredentialsRefused: it cannot be written.
    """
    try:
        replace_text(path, text, 0o644)
    except OSError as error:
        raise CredentialsRefused(f"{path}: {error.strerror}") from None


def replace_text(path: Path, text: str, mode: int) -> None:
    """Write a file in one step: readers see the old text or the new one.

    Args:
        path: the file; a link there is replaced, not followed.
        text: written as UTF-8.
        mode: permissions, of which the umask takes away.

    Raises:
        OSError: it cannot be written; what was there stays.
    """
    draft = path.with_name(f".{path.name}.{os.getpid()}")
    draft.unlink(missing_ok=True)  # of a process that died
    fd = os.open(draft, os.O_WRONLY | os.O_CREAT | os.O_EXCL, mode)  # never through a link
    try:
        with os.fdopen(fd, "wb") as file:
            file.write(text.encode())
            file.flush()
            os.fsync(file.fileno())
        draft.replace(path)
    except OSError:
        draft.unlink(missing_ok=True)
        raise


@contextlib.contextmanager
def locked(path: Path) -> Iterator[None]:
    """Let nobody else change a file between our reading and writing it; waits for who does.

    The lock is on the folder, for the file itself is replaced; it ends with its process. Some
    file systems lock no folder (NFS): better a file that two change at once than one that nobody
    can change.

    Args:
        path: the file, in a folder that exists.

    Raises:
        OSError: there is no such folder, or somebody has it locked for longer than any change
            takes: whoever may read a folder can.
    """
    folder = os.open(path.parent, os.O_RDONLY | os.O_DIRECTORY)
    try:
        _lock(folder)
        yield
    finally:
        os.close(folder)


def _lock(folder: int) -> None:
    end = time.monotonic() + LOCK_SECONDS
    while True:
        try:
            return fcntl.flock(folder, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            if time.monotonic() >= end:
                raise TimeoutError(errno.ETIMEDOUT, "another program locks its folder") from None
            time.sleep(LOCK_LOOK)
        except OSError as error:
            if error.errno not in _NO_LOCKS:
                raise
            return None


def from_base64(text: object) -> bytes:
    """Decode base64, white space allowed.

    Raises:
        ValueError: it is none, or no text.
    """
    if not isinstance(text, str):
        raise ValueError("no text")
    try:
        return base64.b64decode("".join(text.split()), validate=True)
    except binascii.Error as error:
        raise ValueError(str(error)) from None


def to_base64(data: bytes) -> str:
    """Encode base64 on one line."""
    return base64.b64encode(data).decode()
