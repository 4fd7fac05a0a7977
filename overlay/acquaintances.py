"""Nodes that we have heard of, in the table or not: one Contact each."""

from collections.abc import Callable, Mapping
from typing import Final

from hipctl import Hit
from overlay.routing import Contact, Table
from overlay.session import Session

_KNOWN_MAX: Final = 8_192


class Acquaintances:
    """Whom one node has heard of; bounded."""

    def __init__(
        self, table: Table, node_id: Callable[[Hit], bytes], sessions: Mapping[Hit, Session]
    ) -> None:
        self._table = table
        self._node_id = node_id
        self._sessions = sessions
        self._known: dict[Hit, Contact] = {}

    def __len__(self) -> int:
        return len(self._known)

    def get(self, hit: Hit) -> Contact | None:
        """The one with that HIT, if we have heard of it."""
        return self._known.get(hit)

    def introduce(self, hit: Hit, contact: bytes) -> Contact:
        """Somebody says that ``hit`` may be reached so; empty: nobody says how."""
        known = self._known.get(hit)
        if known is None:
            if len(self._known) >= _KNOWN_MAX:  # forget strangers
                self._known = {each.hit: each for each in self._table.contacts()}
            known = self._known[hit] = Contact(self._node_id(hit), hit, contact)
        elif contact and known.contact != contact:
            # hearsay counts only where the node itself did not tell, or can't be reached there
            session = self._sessions.get(hit)
            if session is None or not session.greeted or known.failures:
                known.contact = contact
        return known

    def keep(self, node: Contact) -> None:
        """It is in the table now."""
        self._known[node.hit] = node
