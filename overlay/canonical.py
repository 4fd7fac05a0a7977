"""Canonical msgpack: integers, text, bytes, nil and arrays in their shortest form, and no other.

A value has one encoding, so that equal values have equal hashes and signatures.
"""

from typing import Any

import msgpack

Value = int | str | bytes | None | list["Value"]
"""What a canonical array may hold."""


class NotCanonical(ValueError):
    """The bytes are no canonical msgpack array; ``reason`` is short and constant."""

    def __init__(self, reason: str) -> None:
        super().__init__(reason)
        self.reason = reason


def encode(values: list[Any]) -> bytes:
    """Encode an array."""
    return msgpack.packb(values, use_bin_type=True)  # type: ignore[no-any-return]


def decode(data: bytes, limit: int) -> list[Any]:
    """Decode an array of at most ``limit`` bytes.

    Nothing is assumed of the items' types, but that they encode back to ``data``.

    Raises:
        NotCanonical: too long, no msgpack, no array, or another encoding than ``encode``'s.
    """
    if len(data) > limit:
        raise NotCanonical("too long")
    try:
        values = msgpack.unpackb(
            data, object_pairs_hook=_no_map, max_map_len=0, max_ext_len=0, max_array_len=64
        )
        if type(values) is not list:
            raise NotCanonical("no array")
        again = msgpack.packb(values, use_bin_type=True)
    except NotCanonical:
        raise
    except (ValueError, TypeError, OverflowError, RecursionError):
        raise NotCanonical("no msgpack") from None
    if again != data:
        raise NotCanonical("not canonical")
    return values


def _no_map(pairs: object) -> None:
    raise NotCanonical("a map")
