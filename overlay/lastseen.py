"""Where those in our overlays were last, kept on disk: among few that is how they meet again.

What they publish names servers only, which may sleep when two of them are awake; an association
told us more. A program that starts anew would know nothing of that.
"""

import hashlib
from collections import OrderedDict
from collections.abc import Callable, Iterable, Sequence
from typing import Final

from hipctl import Hit, Host
from overlay.scout import Home
from overlay.store import MAX_CONTACTS

_LABEL: Final = b"last seen"  # these contacts lie in the store beside those that are published


class LastSeen:
    """Remembers for the host where peers were.

    Args:
        host: the HIP host.
        homes: our overlays; their stores are written.
        wall: Unix seconds.
    """

    def __init__(self, host: Host, homes: Sequence[Home], wall: Callable[[], float]) -> None:
        self._host, self._homes, self._wall = host, homes, wall
        self._kept: OrderedDict[Hit, bytes] = OrderedDict()  # the latest last

    def recall(self) -> None:
        """Let the host know what an earlier start has kept."""
        for home in self._homes:
            for hit, contact in reversed(home.node.store.contacts(_place(home))):
                self._note(hit, contact)
                self._host.recall(hit, contact)

    def keep(self, peers: Iterable[Hit]) -> None:
        """Write where these are, if that has changed."""
        for hit in peers:
            contact = self._host.last_seen(hit)
            if not contact or contact == self._kept.get(hit):
                continue
            for home in self._homes:
                if hit in home.node.engine.met():  # no overlay's rows tell of another's members
                    home.node.store.remember(_place(home), hit, contact, self._wall())
            self._note(hit, contact)

    def _note(self, hit: Hit, contact: bytes) -> None:
        self._kept[hit] = contact
        self._kept.move_to_end(hit)
        if len(self._kept) > MAX_CONTACTS:
            self._kept.popitem(last=False)


def _place(home: Home) -> bytes:
    return hashlib.sha256(_LABEL + home.node.overlay.id).digest()
