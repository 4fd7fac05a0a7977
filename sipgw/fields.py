"""The header fields of one message: found by any spelling, written as they were received.

RFC 3261 §7.3. Nothing is understood here but names, folding and lists.
"""

import re
from collections.abc import Iterator, Sequence

from sipgw.constants import COMPACT, LISTS, SPELLINGS
from sipgw.headers import split_list

SPELLED = {name.lower(): name for name in SPELLINGS}
# Every usual spelling to its key, so that parsing seldom has to lower-case anything.
KEYS: dict[str, str] = {
    **{name: name.lower() for name in SPELLINGS},
    **{name.lower(): name.lower() for name in SPELLINGS},
    **COMPACT,
    **{short.upper(): key for short, key in COMPACT.items()},
    "Call-Id": "call-id",
    "Cseq": "cseq",
}
_FOLD = re.compile(r"[ \t]*+\r\n[ \t]++")
_BREAKS = re.compile(r"[\r\n]+[ \t]*")


def key_of(name: str) -> str:
    """A header's name in lower case and long form."""
    known = KEYS.get(name)
    if known is None:
        known = name.rstrip(" \t").lower()
        known = COMPACT.get(known, known)
    return known


def clean(value: str) -> str:
    """Make spaces of line breaks."""
    # A line break inside a value would begin a header of its own at the receiver.
    return _BREAKS.sub(" ", value) if "\n" in value or "\r" in value else value


def value_of(line: str) -> str:
    """The value of a raw header line, unfolded."""
    value = line[line.find(":") + 1 :]
    if "\r" in value:
        value = _FOLD.sub(" ", value)
    return value.strip(" \t")


def first_of(key: str, line: str) -> str:
    """The value of a raw header line; of a list its first element."""
    value = value_of(line)
    return split_list(value)[0] if "," in value and key in LISTS else value


class Headers:
    """The header fields of one message, in order; names match in any case and compact form.

    Attributes:
        keys: name of every line, in lower case and long form.
        stored: every line as received, name and folding included; as many as ``keys``.
    """

    __slots__ = ("keys", "stored")

    def __init__(self) -> None:
        self.keys: list[str] = []
        self.stored: list[str] = []  # as received, name and folding included

    def _value(self, index: int) -> str:
        return value_of(self.stored[index])

    def first(self, name: str) -> str | None:
        """The first value, None if there is no such header; of a list its first element."""
        key = KEYS.get(name) or key_of(name)
        if key not in self.keys:
            return None
        return first_of(key, self.stored[self.keys.index(key)])

    def all(self, name: str) -> list[str]:
        """Every value in order: all lines, and where the header is a list all its elements."""
        key = KEYS.get(name) or key_of(name)
        count = self.keys.count(key)
        if count == 0:
            return []
        if count == 1:
            value = self._value(self.keys.index(key))
            return split_list(value) if "," in value and key in LISTS else [value]
        found = [self._value(i) for i, k in enumerate(self.keys) if k == key]
        if key in LISTS and any("," in value for value in found):
            return [part for value in found for part in split_list(value)]
        return found

    def lines(self, name: str) -> list[str]:
        """The value of every line, lists not split."""
        key = key_of(name)
        return [self._value(i) for i, k in enumerate(self.keys) if k == key]

    def set(self, name: str, value: str) -> None:
        """Replace every header of that name by one, at the place of the first, else at the end."""
        key, line = key_of(name), f"{name}: {clean(value)}"
        try:
            at = self.keys.index(key)
        except ValueError:
            self.keys.append(key)
            self.stored.append(line)
            return
        if self.keys.count(key) > 1:
            self.remove(name)
            self.keys.insert(at, key)
            self.stored.insert(at, line)
        else:
            self.stored[at] = line

    def add(self, name: str, value: str) -> None:
        """Append one header line."""
        self.keys.append(key_of(name))
        self.stored.append(f"{name}: {clean(value)}")

    def prepend(self, name: str, value: str) -> None:
        """Insert one header line before all others (a new topmost Via, Route, Record-Route)."""
        self.keys.insert(0, key_of(name))
        self.stored.insert(0, f"{name}: {clean(value)}")

    def remove(self, name: str) -> int:
        """Drop every line of that name; return how many there were."""
        key, before = key_of(name), len(self.keys)
        kept = [i for i, k in enumerate(self.keys) if k != key]
        if len(kept) != before:
            self.stored = [self.stored[i] for i in kept]
            self.keys = [self.keys[i] for i in kept]
        return before - len(kept)

    def pop(self, name: str) -> str | None:
        """Take away the first value (of a list, its first element) and return it."""
        key = key_of(name)
        try:
            at = self.keys.index(key)
        except ValueError:
            return None
        value = self._value(at)
        first, *rest = split_list(value) if key in LISTS else [value]
        if rest:
            self.stored[at] = f"{SPELLED.get(key, name)}: {', '.join(rest)}"
        else:
            del self.keys[at], self.stored[at]
        return first

    def replace_first(self, name: str, value: str) -> None:
        """Put ``value`` in the place of the first one (of a list, of its first element)."""
        key = key_of(name)
        try:
            at = self.keys.index(key)
        except ValueError:
            self.prepend(name, value)
            return
        rest = split_list(self._value(at))[1:] if key in LISTS else []
        self.stored[at] = f"{name}: {', '.join([clean(value), *rest])}"

    def copy_from(self, other: "Headers", *names: str) -> None:
        """Append the lines of ``names``, as spelled there and in their order there."""
        wanted = {key_of(name) for name in names}
        for key, line in zip(other.keys, other.stored, strict=True):
            if key in wanted:
                self.keys.append(key)
                self.stored.append(line)

    def raw(self) -> tuple[list[str], list[str]]:
        """Keys and whole lines, for reading only: what ``add_raw`` of another message takes."""
        return self.keys, self.stored

    def add_raw(self, key: str, line: str) -> None:
        """Append a line of another message's ``raw``."""
        self.keys.append(key)
        self.stored.append(line)

    def copy(self) -> "Headers":
        """A copy that can be changed on its own."""
        twin = Headers()
        twin.keys, twin.stored = self.keys.copy(), self.stored.copy()
        return twin

    @property
    def names(self) -> Sequence[str]:
        """The key of every line, in order: lower case, long form."""
        return self.keys

    def __contains__(self, name: str) -> bool:
        return key_of(name) in self.keys

    def __len__(self) -> int:
        return len(self.keys)

    def __iter__(self) -> Iterator[tuple[str, str]]:
        """Every line as (key in lower case and long form, value)."""
        return iter([(key, self._value(i)) for i, key in enumerate(self.keys)])
