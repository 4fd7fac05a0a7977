"""Shell: account files that are written while we run: what is new in them is shown at once.

Another account is another person, whose names services hold already: that takes a new start.
"""

import asyncio
import dataclasses
import logging
from collections.abc import Callable, Mapping, MutableMapping
from pathlib import Path
from typing import Final, Self

import msgspec

from hipctl import HipError, HostIdentity
from overlay.admission import load_account
from overlay.errors import OverlayError
from overlay.membership import Membership, credentials_in
from overlay.reception import Reception

_log = logging.getLogger(__name__)

LOOK: Final = 5.0  # seconds between looks at the files

_Stamp = tuple[int, int, int] | None


class Renewal:
    """From ``__aenter__`` to ``__aexit__``.

    Args:
        members: our overlays, by domain; kept up to date.
        identities: ours, by name.
        reception: shows what is ours in exchanges.
        wall: Unix seconds.
        renewed: called when names may have changed.
    """

    def __init__(
        self,
        members: MutableMapping[str, Membership],
        identities: Mapping[str, HostIdentity],
        reception: Reception,
        wall: Callable[[], float],
        renewed: Callable[[], None],
    ) -> None:
        self._members = members
        self._identities = identities
        self._reception = reception
        self._wall = wall
        self._renewed = renewed
        self._seen: dict[str, _Stamp] = {}

    async def __aenter__(self) -> Self:
        """Begin to look: first at all, for the start has taken a while since they were read."""
        self._task = asyncio.create_task(self._look_on(), name="renewal")
        return self

    async def __aexit__(self, *_exc: object) -> None:
        self._task.cancel()
        await asyncio.gather(self._task, return_exceptions=True)

    async def _look_on(self) -> None:
        while True:
            await asyncio.sleep(LOOK)
            for domain, member in list(self._members.items()):
                stamp = _stamp(member.joined.table.account)
                if stamp is None or stamp == self._seen.get(domain):
                    continue
                self._seen[domain] = stamp
                try:
                    self._renew(domain, member)
                except (OverlayError, HipError) as error:
                    _log.warning("%s; this peer goes on with what it had", error)
                except Exception:
                    _log.exception("the account of %s could not be renewed", domain)

    def _renew(self, domain: str, member: Membership) -> None:
        """Show what a file says now.

        Raises:
            OverlayError: it is wrong, or the overlay would not let us in with it.
            HipError: it fits no packet.
        """
        before, path = member.joined, member.joined.table.account
        if path is None or before.account is None:
            return
        account = load_account(path)
        if account.hit != before.account.hit:
            _log.warning("%s is another account now: restart the peer to take it up", path)
            return
        if account == before.account:
            return
        joined = msgspec.structs.replace(before, account=account)
        shown = credentials_in(joined, member.hit, self._wall())
        self._reception.renew(self._identities[joined.table.identity], joined.info, shown)
        self._members[domain] = dataclasses.replace(member, joined=joined)
        member.node.show(shown)
        member.providers.show(shown)
        member.directory.use(account)
        self._renewed()
        _log.info("what %s says now is shown in %s", path, domain)


def _stamp(path: Path | None) -> _Stamp:
    """What changes when the file does; None where there is none, which may be for a moment."""
    try:
        status = None if path is None else path.stat()
    except OSError:
        return None
    return None if status is None else (status.st_mtime_ns, status.st_size, status.st_ino)
