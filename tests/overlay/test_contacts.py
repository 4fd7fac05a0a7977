"""Petnames and the block list survive restarts, other writers and bad files."""

import os
import stat
import tomllib
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from overlay.contacts import ContactBook, toml_string
from overlay.errors import ConfigError

MUM = "sip:alice@example.org"


def test_a_petname_is_found_without_regard_to_case_and_after_a_restart(tmp_path: Path) -> None:
    path = tmp_path / "contacts.toml"
    assert ContactBook(path).add("Mum", "sip:alice@EXAMPLE.org") == MUM
    book = ContactBook(path)
    assert book.uri("mUM") == MUM
    assert book.uri("dad") is None
    assert book.names() == {"Mum": MUM}
    assert book.knows(MUM)
    assert not book.knows("sip:bob@example.org")


def test_a_missing_file_is_an_empty_book(tmp_path: Path) -> None:
    book = ContactBook(tmp_path / "contacts.toml")
    assert book.names() == {}
    assert book.blocked() == frozenset()


def test_the_file_is_private(tmp_path: Path) -> None:
    path = tmp_path / "new" / "contacts.toml"
    ContactBook(path).add("mum", MUM)
    assert stat.S_IMODE(path.stat().st_mode) == 0o600
    assert os.listdir(path.parent) == ["contacts.toml"]


def test_a_running_peer_sees_what_the_command_line_wrote(tmp_path: Path) -> None:
    path = tmp_path / "contacts.toml"
    running = ContactBook(path)
    ContactBook(path).add("mum", MUM)
    assert running.uri("mum") == MUM
    ContactBook(path).block(MUM)
    assert running.blocked() == {MUM}
    path.unlink()
    assert running.uri("mum") is None


def test_two_writers_do_not_undo_each_other(tmp_path: Path) -> None:
    one, other = ContactBook(tmp_path / "c.toml"), ContactBook(tmp_path / "c.toml")
    one.add("a", MUM)
    other.add("b", MUM)
    assert set(one.names()) == {"a", "b"}


def test_a_petname_can_be_blocked_and_unblocked(tmp_path: Path) -> None:
    book = ContactBook(tmp_path / "c.toml")
    book.add("mum", MUM)
    assert book.block("mum") == MUM
    assert book.blocked() == {MUM}
    book.unblock(MUM)
    assert book.blocked() == frozenset()
    with pytest.raises(ConfigError, match="not blocked"):
        book.unblock(MUM)


def test_a_long_block_list_is_read_back(tmp_path: Path) -> None:
    book = ContactBook(tmp_path / "c.toml")
    aors = {f"sip:a.nuisance.{n}@sub.example.org" for n in range(100)}
    for aor in aors:
        book.block(aor)
    assert ContactBook(tmp_path / "c.toml").blocked() == aors


def test_removing_an_unknown_name_says_how_to_list_them(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match="p2psip contact list"):
        ContactBook(tmp_path / "c.toml").remove("mum")


@pytest.mark.parametrize("name", ["", "a b", "a@b", "x" * 65, "a\n", "sip:x"])
def test_a_name_that_cannot_be_dialled_is_refused(tmp_path: Path, name: str) -> None:
    with pytest.raises(ConfigError, match="cannot be dialled"):
        ContactBook(tmp_path / "c.toml").add(name, MUM)


def test_a_uri_that_names_nobody_is_refused(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match="sip:user@domain"):
        ContactBook(tmp_path / "c.toml").add("mum", "tel:+431234")


@pytest.mark.parametrize(
    "text",
    ["x = [", "blocked = 5", "names = []", "other = 1", 'blocked = ["nobody"]', "names = {a = 5}",
     'names = {"a b" = "sip:a@b.c"}'],
)  # fmt: skip
def test_a_bad_file_is_a_sentence_that_names_the_file(tmp_path: Path, text: str) -> None:
    path = tmp_path / "c.toml"
    path.write_text(text)
    with pytest.raises(ConfigError, match=r"c\.toml"):
        ContactBook(path)


def test_a_file_that_goes_bad_while_we_run_keeps_the_last_good_content(tmp_path: Path) -> None:
    path = tmp_path / "c.toml"
    book = ContactBook(path)
    book.add("mum", MUM)
    path.write_text("[[[")
    assert book.uri("mum") == MUM
    assert book.problem
    assert "no TOML" in book.problem


def test_a_file_that_goes_bad_before_it_is_changed_is_not_overwritten(tmp_path: Path) -> None:
    path = tmp_path / "contacts.toml"
    book = ContactBook(path)
    book.add("mum", "sip:alice@example.org")
    path.write_text("what somebody = was about to write")
    for change in (
        lambda: book.add("dad", "sip:bob@example.org"),
        lambda: book.remove("mum"),
        lambda: book.block("sip:carol@example.org"),
        lambda: book.unblock("sip:carol@example.org"),
    ):
        with pytest.raises(ConfigError, match="no TOML"):
            change()
    assert path.read_text() == "what somebody = was about to write"


def test_a_file_that_gets_out_of_reach_does_not_unblock_anybody(tmp_path: Path) -> None:
    path = tmp_path / "c.toml"
    book = ContactBook(path)
    book.block("sip:eve@example.org")
    path.unlink()
    path.symlink_to(path)  # stat fails, as in a folder that may not be searched
    assert book.blocked() == {"sip:eve@example.org"}
    assert book.problem
    with pytest.raises(ConfigError, match=r"c\.toml"):
        ContactBook(path)


def test_contacts_that_are_changed_at_once_are_all_kept(tmp_path: Path) -> None:
    path = tmp_path / "c.toml"
    with ThreadPoolExecutor(16) as many:
        done = list(many.map(lambda n: ContactBook(path).add(f"n{n}", MUM), range(16)))
    assert len(done) == 16
    assert len(ContactBook(path).names()) == 16


def test_an_unwritable_place_is_a_sentence(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")
    with pytest.raises(ConfigError, match="cannot be written"):
        ContactBook(tmp_path / "file" / "c.toml").add("mum", MUM)


@settings(max_examples=60)
@given(st.text(st.characters(exclude_categories=["Cs"])))
def test_any_text_is_quoted_so_that_toml_reads_it_back(text: str) -> None:
    assert tomllib.loads(f"x = {toml_string(text)}") == {"x": text}


@settings(max_examples=60)
@given(st.binary(max_size=200))
def test_any_bytes_are_a_book_or_a_sentence(
    tmp_path_factory: pytest.TempPathFactory, data: bytes
) -> None:
    path = tmp_path_factory.getbasetemp() / "any.toml"
    path.write_bytes(data)
    try:
        ContactBook(path).names()
    except ConfigError as error:
        assert "any.toml" in str(error)
