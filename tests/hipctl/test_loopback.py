"""Datagrams from a host to itself: later, in order, and never without bound."""

from collections.abc import Callable

from hipctl.identity import Hit
from hipctl.loopback import MOST_BYTES, Loopback

A, B = Hit.parse("2001:22::1"), Hit.parse("2001:22::2")

Delivered = tuple[Hit, int, bytes, Hit, int]


class Loop:
    """Counts what it holds; one iteration at a time."""

    def __init__(self) -> None:
        self.soon: list[Callable[[], None]] = []

    def call_soon(self, call: Callable[[], None]) -> None:
        self.soon.append(call)

    def iterate(self) -> None:
        soon, self.soon = self.soon, []
        for call in soon:
            call()


def test_datagrams_come_in_order_in_the_next_iteration() -> None:
    loop, heard = Loop(), list[Delivered]()
    loopback = Loopback(lambda *datagram: heard.append(datagram), loop.call_soon)
    data = bytearray(b"one")
    assert loopback.send(B, 7, data, A, 8)  # type: ignore[arg-type]
    data[:] = b"TWO"
    assert loopback.send(B, 7, b"two", A, 8)
    assert heard == []
    loop.iterate()
    assert heard == [(B, 7, b"one", A, 8), (B, 7, b"two", A, 8)]
    assert loop.soon == []


def test_services_that_answer_themselves_twice_leave_the_loop_and_memory_alone() -> None:
    loop, delivered = Loop(), 0

    def service(to: Hit, to_port: int, data: bytes, source: Hit, port: int) -> None:
        nonlocal delivered
        delivered += 1
        for _ in range(2):
            loopback.send(source, port, data, to, to_port)

    loopback = Loopback(service, loop.call_soon)
    loopback.send(B, 7, bytes(60_000), A, 8)
    for _ in range(20):
        before = delivered
        loop.iterate()
        assert (delivered - before) * 60_000 <= MOST_BYTES
        assert len(loop.soon) <= 1
    assert not loopback.send(B, 7, bytes(60_000), A, 8)


def test_closing_loses_what_waits() -> None:
    loop, heard = Loop(), list[Delivered]()
    loopback = Loopback(lambda *datagram: heard.append(datagram), loop.call_soon)
    loopback.send(B, 7, b"", A, 8)
    loopback.close()
    loop.iterate()
    assert heard == []
