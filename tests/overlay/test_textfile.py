"""Text files are read within limits, and written whole, to where they were meant to be."""

import errno
import fcntl
import os
import stat
from pathlib import Path

import pytest

from overlay import textfile
from overlay.errors import CredentialsRefused
from overlay.textfile import MAX_DOTS, locked, parse_toml, read_text, replace_text, write_text


@pytest.mark.parametrize("newline", ["\u2028", "\u2029", "\x85"])
def test_what_only_python_takes_for_a_new_line_does_not_hide_dots(newline: str) -> None:
    key = f'{"a." * 200}"{newline}".'
    with pytest.raises(ValueError, match="dots"):
        parse_toml(key * (2 * MAX_DOTS // 200) + "a = 1")


def test_many_lines_may_have_a_few_dots_each() -> None:
    assert len(parse_toml("\n".join(f"a{n} = 1.5" for n in range(2 * MAX_DOTS)))) == 2 * MAX_DOTS


@pytest.mark.parametrize(("umask", "mode"), [(0, 0o644), (0o022, 0o644), (0o077, 0o600)])
def test_nobody_else_may_write_what_we_wrote(tmp_path: Path, umask: int, mode: int) -> None:
    before = os.umask(umask)
    try:
        write_text(tmp_path / "a", "text")
        replace_text(tmp_path / "b", "text", 0o600)
    finally:
        os.umask(before)
    assert stat.S_IMODE((tmp_path / "a").stat().st_mode) == mode
    assert stat.S_IMODE((tmp_path / "b").stat().st_mode) == 0o600


def test_a_link_that_lies_in_wait_is_not_followed(tmp_path: Path) -> None:
    victim = tmp_path / "victim"
    victim.write_text("precious")
    for name in ("a.new", f".a.{os.getpid()}"):
        (tmp_path / name).symlink_to(victim)
    write_text(tmp_path / "a", "text")
    assert victim.read_text() == "precious"
    assert (tmp_path / "a").read_text() == "text"
    assert not (tmp_path / "a").is_symlink()


def test_what_cannot_be_written_leaves_the_old_file_and_no_draft(tmp_path: Path) -> None:
    (tmp_path / "a").mkdir()
    with pytest.raises(CredentialsRefused):
        write_text(tmp_path / "a", "text")
    assert [p.name for p in tmp_path.iterdir()] == ["a"]
    with pytest.raises(CredentialsRefused):
        read_text(tmp_path / "a")


def test_where_folders_cannot_be_locked_files_are_changed_all_the_same(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def flock(_folder: int, _how: int) -> None:  # as NFS, which locks only what may be written
        raise OSError(errno.EBADF, os.strerror(errno.EBADF))

    monkeypatch.setattr(fcntl, "flock", flock)
    with locked(tmp_path / "a"):
        replace_text(tmp_path / "a", "text", 0o600)
    assert (tmp_path / "a").read_text() == "text"


def test_who_never_unlocks_a_folder_stops_nobody_for_ever(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(textfile, "LOCK_SECONDS", 0.1)
    with (  # the first is stopped, say; or is anybody, in a folder like /tmp
        locked(tmp_path / "a"),
        pytest.raises(OSError, match="locks"),
        locked(tmp_path / "b"),
    ):
        pytest.fail("two at once")
    with locked(tmp_path / "b"):
        pass
