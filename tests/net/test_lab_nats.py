"""Each kind of home is what its name says, measured from outside."""

import contextlib
from collections.abc import Iterator

import pytest
from net import lab
from net.lab_internet import Internet
from net.lab_prober import Behaviour, Dependence, Prober

pytestmark = [pytest.mark.net]

NOTHING, BOTH = Dependence.NOTHING, Dependence.ADDRESS_AND_PORT
SERVERS = ("s1", "s2")


@pytest.fixture(autouse=True)
def _possible() -> None:
    if why := lab.missing():
        pytest.skip(why)


@contextlib.contextmanager
def a_home(kind: str, versions: tuple[int, ...] = (4,), **more: object) -> Iterator[Internet]:
    """Alice at home h1, and the servers."""
    with Internet(versions) as net:
        for server in SERVERS:
            net.public(server)
        net.home("h1", kind, **more)  # type: ignore[arg-type]
        net.host("alice", "h1")
        yield net


def measured(net: Internet, name: str = "alice", version: int = 4, port: int = 0) -> Behaviour:
    with contextlib.closing(Prober(net, SERVERS, version)) as prober:
        return prober.measure(name, port)


@pytest.mark.parametrize(
    ("kind", "translated", "mapping", "filtering"),
    [
        ("public", False, NOTHING, NOTHING),
        ("firewall", False, NOTHING, BOTH),
        ("endpoint-independent", True, NOTHING, NOTHING),
        ("port-restricted", True, NOTHING, BOTH),
        ("symmetric", True, BOTH, BOTH),
        ("double", True, NOTHING, BOTH),
        ("forgetful", True, NOTHING, BOTH),
    ],
)
def test_a_home_maps_and_filters_as_its_name_says(
    kind: str, translated: bool, mapping: Dependence, filtering: Dependence
) -> None:
    with a_home(kind) as net:
        found = measured(net)
    assert (found.translated, found.mapping, found.filtering) == (translated, mapping, filtering)
