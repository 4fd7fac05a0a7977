"""A small Internet in network namespaces: a router, and hosts on links of their own to it.

Nothing outside the namespaces is touched; all of it vanishes at the end, and what a crash left
behind when the next one begins. Needs root.
"""

import contextlib
import itertools
import os
from collections.abc import Sequence
from contextlib import AbstractContextManager
from typing import Self

from net.lab_namespaces import (
    PREFIX,
    CommandFailed,
    Namespaces,
    entered,
    missing,
    run,
    sweep,
    tune,
)

__all__ = ["PORT", "PREFIX", "Lab", "missing"]

PORT = 10_500
LINKS = 4  # of a host, at most
_numbers = itertools.count(1)


class Lab:
    """From ``__enter__`` to ``__exit__``.

    Host number h (from 1) has at link l the addresses 10.h.l.2 and fd00:h:l::2; the router's end
    is called ``h-l`` there, and ``link<l>`` in the host.

    Attributes:
        namespace: see Namespaces.name.
        inside: see Namespaces.
        ip: see Namespaces.
    """

    def __init__(self, hosts: Sequence[str]) -> None:
        self._hosts = {name: number for number, name in enumerate(hosts, 1)}
        self._spaces = Namespaces(f"{PREFIX}{os.getpid()}-lab{next(_numbers)}-")
        self.namespace, self.inside = self._spaces.name, self._spaces.inside
        self.ip = self._spaces.ip

    @property
    def names(self) -> list[str]:
        """The hosts, and the router between them."""
        first, *others = self._hosts
        return [first, "router", *others]

    def owners(self) -> dict[str, str]:
        """Who has each address, or could have it."""
        return {
            self.address(name, link, version): name
            for name in self._hosts
            for link in range(1, LINKS + 1)
            for version in (4, 6)
        }

    def devices(self, name: str) -> Sequence[str]:
        """All count."""
        return ()

    def entered(self, name: str) -> AbstractContextManager[None]:
        """Sockets opened inside are that namespace's; never await inside."""
        return entered(self.namespace(name))

    def connect(self, name: str, link: int) -> None:
        """Lay a cable from a host to the router; without addresses as yet."""
        number = self._hosts[name]
        router = self.namespace("router")
        self.ip(name, f"link add link{link} type veth peer name {number}-{link} netns {router}")
        self.ip(name, f"link set link{link} up")
        self.ip("router", f"addr add 10.{number}.{link}.1/24 dev {number}-{link}")
        self.ip("router", f"addr add fd00:{number}:{link}::1/64 dev {number}-{link} nodad")
        self.ip("router", f"link set {number}-{link} up")

    def address(self, name: str, link: int, version: int = 4) -> str:
        """The address that a host has or could have."""
        number = self._hosts[name]
        return f"10.{number}.{link}.2" if version == 4 else f"fd00:{number}:{link}::2"

    def add(self, name: str, link: int, version: int = 4) -> None:
        """Give a host its address at a link, and a default route of metric 100 + link."""
        number = self._hosts[name]
        prefix, more = ("24", "") if version == 4 else ("64", " nodad")
        self.ip(
            name, f"addr add {self.address(name, link, version)}/{prefix} dev link{link}{more}"
        )
        router = f"10.{number}.{link}.1" if version == 4 else f"fd00:{number}:{link}::1"
        self.ip(
            name, f"-{version} route add default via {router} dev link{link} metric {100 + link}"
        )

    def remove(self, name: str, link: int, version: int = 4) -> None:
        """Take the address away again, as when a lease ends; its routes go with it."""
        prefix = "24" if version == 4 else "64"
        self.ip(name, f"addr del {self.address(name, link, version)}/{prefix} dev link{link}")
        with contextlib.suppress(CommandFailed):  # the kernel took it, or not
            self.ip(name, f"-{version} route del default dev link{link}")

    def cut(self, name: str, link: int) -> None:
        """Let the router lose everything from and to a link; nobody is told."""
        end = f"{self._hosts[name]}-{link}"
        rules = (
            "table inet lab {\nchain forward { type filter hook forward priority 0; "
            f'iifname "{end}" drop; oifname "{end}" drop; }} '
            "\nchain input { type filter hook input priority 0; "
            f'iifname "{end}" drop; }}\n}}'
        )
        run(*self.inside("router"), "nft", rules)

    def __enter__(self) -> Self:
        sweep()
        try:
            for name in ("router", *self._hosts):
                self._spaces.add(name)
            router = self.namespace("router")
            tune(router, ipv4__ip_forward=1, ipv6__conf__all__forwarding=1)
        except BaseException:
            self.__exit__()
            raise
        return self

    def __exit__(self, *_: object) -> None:
        self._spaces.remove()
