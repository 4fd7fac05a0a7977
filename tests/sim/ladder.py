"""Ladder diagrams of simulated networks; see ``ladder`` beside this folder for the drawing."""

from collections.abc import Iterable, Iterator, Mapping, Sequence

from ladder import Event, draw, label
from sim.nats import Internet
from sim.net import Address, Net


def of_net(net: Net, names: Mapping[Address, str] | None = None, most: int = 200) -> str:
    """Draw what a flat network carried; hosts are named by their addresses, or as told."""
    known = names or {}

    def name(address: Address) -> str:
        return known.get(address, f"{address[0]}:{address[1]}")

    events = (Event(at, name(a), name(b), *label(data)) for at, a, b, data in net.log)
    return draw(events, most=most)


def of_internet(
    internet: Internet, hosts: Sequence[str] = (), since: float = 0.0, most: int = 200
) -> str:
    """Draw each hop that datagrams took, and what routers and machines did with them.

    Args:
        internet: what it remembers is drawn.
        hosts: columns from left to right; others follow as they appear.
        since: seconds.
        most: rows.
    """
    return draw(events(internet.trace, since), hosts, most)


def events(
    trace: Iterable[tuple[float, str, str, bytes | str]], since: float = 0.0
) -> Iterator[Event]:
    """Events from ``Internet.trace``."""
    for at, source, to, what in trace:
        if at >= since:
            named = label(what) if isinstance(what, bytes) else (what, source == to)
            yield Event(at, source, to, *named)
