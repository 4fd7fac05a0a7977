"""Measures what a NAT does, as RFC 5780 §4: two servers with two ports each, and what they see."""

import contextlib
import select
import socket
import time
from collections.abc import Iterator
from dataclasses import dataclass
from enum import StrEnum
from itertools import count

from net.lab_internet import Internet

PORTS = 3_478, 3_479
PATIENCE = 2.0  # seconds for what must come
GRACE = 0.05  # seconds for what must not, after all that was sent before came

Address = tuple[str, int]


class Dependence(StrEnum):
    """On what of the remote end mapping or filtering depends, RFC 4787 §4.1 and §5."""

    NOTHING = "endpoint-independent"
    ADDRESS = "address-dependent"
    ADDRESS_AND_PORT = "address and port-dependent"


@dataclass(frozen=True, slots=True)
class Behaviour:
    """What a NAT does with one host's UDP.

    Attributes:
        mapping: on what the outer port depends.
        filtering: on what it depends who may send to the outer port.
        inner: the address from which the host sent.
        outer: the one from which the first server saw it come.
    """

    mapping: Dependence
    filtering: Dependence
    inner: Address
    outer: Address

    @property
    def translated(self) -> bool:
        return self.inner != self.outer


class Prober:
    """Two public hosts with two sockets each.

    Args:
        net: where they are.
        servers: the names of the hosts.
        version: the IP version to measure with.
    """

    def __init__(self, net: Internet, servers: tuple[str, str], version: int = 4) -> None:
        self._net, self._version = net, version
        self._tokens = count()
        self._servers = {
            (name, port): self.opened(servers[name], PORTS[port])
            for name in (0, 1)
            for port in (0, 1)
        }

    def close(self) -> None:
        for server in self._servers.values():
            server.close()

    def opened(self, name: str, port: int = 0, place: str | None = None) -> socket.socket:
        """A socket of a host at its address (at a place)."""
        family = socket.AF_INET if self._version == 4 else socket.AF_INET6
        with self._net.entered(name):
            made = socket.socket(family, socket.SOCK_DGRAM)
        made.bind((self._net.address(name, self._version, place), port))
        made.setblocking(False)
        return made

    def measure(self, name: str, port: int = 0) -> Behaviour:
        """What lies before a host does, seen from a fresh socket for each half."""
        with contextlib.closing(self.opened(name, port)) as client:
            seen = [self.seen(client, server, p) for server, p in ((0, 0), (0, 1), (1, 0), (1, 1))]
            mapping = _mapping(seen)
            inner: Address = client.getsockname()[:2]
        with contextlib.closing(self.opened(name)) as client:
            filtering = self._filtering(client)
        return Behaviour(mapping, filtering, inner, seen[0])

    def seen(
        self, client: socket.socket, server: int = 0, port: int = 0, patience: float = PATIENCE
    ) -> Address:
        """From which address a server sees a host's socket.

        Raises:
            TimeoutError: nothing came.
        """
        there = self._servers[server, port]
        token = self._token()
        client.sendto(token, there.getsockname())
        for data, source in arrivals(there, patience):
            if data == token:
                return source
        raise TimeoutError(f"nothing came to {there.getsockname()}")

    def reaches(
        self,
        outer: Address,
        client: socket.socket,
        server: int = 0,
        port: int = 0,
        patience: float = GRACE,
    ) -> bool:
        """Whether what a server sends to an outer address gets to the host's socket."""
        token = self._token()
        self._servers[server, port].sendto(token, outer)
        return any(data == token for data, _ in arrivals(client, patience))

    def _filtering(self, client: socket.socket) -> Dependence:
        outer = self.seen(client)
        if not self.reaches(outer, client):
            raise TimeoutError("not even an answer came")
        if self.reaches(outer, client, server=1):
            return Dependence.NOTHING
        if self.reaches(outer, client, port=1):
            return Dependence.ADDRESS
        assert self.reaches(outer, client)
        return Dependence.ADDRESS_AND_PORT

    def _token(self) -> bytes:
        return b"probe %d" % next(self._tokens)


def _mapping(seen: list[Address]) -> Dependence:
    if len(set(seen)) == 1:
        return Dependence.NOTHING
    if seen[0] == seen[1] and seen[2] == seen[3]:
        return Dependence.ADDRESS
    return Dependence.ADDRESS_AND_PORT


def arrivals(at: socket.socket, patience: float) -> Iterator[tuple[bytes, Address]]:
    """What comes to a socket within a time."""
    end = time.monotonic() + patience
    while select.select([at], [], [], max(0.0, end - time.monotonic()))[0]:
        with contextlib.suppress(ConnectionRefusedError):
            data, source = at.recvfrom(2_048)
            yield data, source[:2]
