"""In words: why nobody can call us, and what would help. Pure."""

from collections import Counter
from dataclasses import dataclass
from typing import Final

from hipctl import Nat
from overlay.knocking import Knocked
from overlay.reachable import Facts

FORWARD: Final = (
    "switch on PCP, NAT-PMP or UPnP in the router, or let it forward HIP's UDP port to this "
    "machine and name that address in host.announce"
)
SERVER: Final = (
    "have a peer with a public address run the service relay: a table "
    "[overlay.NAME.services.relay] in its profile"
)
RETRIED: Final = "nothing: it is tried again by itself"


@dataclass(frozen=True, slots=True)
class Advice:
    """One thing that is missing.

    Attributes:
        missing: what, a clause without a full stop.
        do: what its owner can do about it, likewise.
    """

    missing: str
    do: str

    def to_json(self) -> dict[str, str]:
        """JSON-ready."""
        return {"missing": self.missing, "do": self.do}


@dataclass(frozen=True, slots=True)
class Seen:
    """What advice is made of.

    Attributes:
        facts: see overlay.reachable.
        proven: whether strangers reach our own address; None: not known.
        verdicts: of the neighbours that were asked last.
        silent: none of those answered.
        nat: what the host knows of it.
        mapped: whether a router maps a port to us.
        met: whether anybody else was ever known here.
        known: servers of the types that we want.
        refusals: why servers said no.
        searched: whether servers were looked for.
        visible: the profile lets strangers see our address.
        rendezvous: there are rendezvous servers that it does not let us use.
        data: servers that relay our data.
        deaf: those that serve us, and pass nothing on.
        mute: those that serve us, and do not answer now.
    """

    facts: Facts
    proven: bool | None = None
    verdicts: Counter[Knocked] | None = None
    silent: bool = False
    nat: Nat = Nat.UNKNOWN
    mapped: bool = False
    met: bool = True
    known: int = 0
    refusals: tuple[str, ...] = ()
    searched: bool = True
    visible: bool = False
    rendezvous: bool = False
    data: int = 0
    deaf: tuple[str, ...] = ()
    mute: tuple[str, ...] = ()


def why_nobody_calls(seen: Seen) -> list[Advice]:
    """What is missing, where nobody can call us."""
    if not seen.facts.network:
        return [Advice("this machine has no network address", "connect it to a network")]
    found = []
    if neighbours := _neighbours(seen):
        found.append(neighbours)
    found.append(_own_address(seen))
    found.append(_servers(seen))
    return found


ADDRESS_TOLD: Final = Advice(
    "no relay serves this peer: strangers who know its names can see its address",
    f"{SERVER}; or say visible = true in [host] of this one if that is no harm",
)


def what_limits(seen: Seen) -> list[Advice]:
    """What is missing where servers make us callable, but not to all, or not for long."""
    troubles = [
        *(f"the server {hit} serves this peer, but does not answer" for hit in seen.mute),
        *(f"the server {hit} serves this peer, but passes no calls on" for hit in seen.deaf),
    ]
    do = f"another one is looked for by itself; if none is found, {SERVER}"
    found = [Advice(missing, do) for missing in troubles]
    if seen.facts.through == 1:
        found.append(Advice("only one server makes this peer callable: it may end", SERVER))
    if not seen.data:
        missing = "no data relay serves this peer: who is behind a strict NAT can't speak with it"
        found.append(Advice(missing, SERVER))
    if seen.nat is Nat.ENDPOINT_DEPENDENT:
        missing = (
            "the NAT shows everybody another port of this peer, so most calls go through a relay"
        )
        found.append(Advice(missing, FORWARD))
    return found


def _neighbours(seen: Seen) -> Advice | None:
    if not seen.met:
        return Advice(
            "nobody else is known in this overlay",
            "invite somebody: p2psip overlay invite --help",
        )
    if _is_cut_off(seen):
        return Advice(
            "no other peer of the overlay answers, and nothing else from the Internet",
            "look at the connection of the router: does a web page open? If so, wait until "
            "another peer is awake; one that is always on, named as a seed, would help",
        )
    return None


def _is_cut_off(seen: Seen) -> bool:
    """Whether this machine's network may lead nowhere: nobody answers who ever did."""
    return seen.met and (not seen.facts.neighbours or seen.silent)


def _own_address(seen: Seen) -> Advice:
    verdicts = seen.verdicts or Counter()
    if not seen.facts.direct:
        return Advice("this machine has no address that others could be told", FORWARD)
    if seen.mapped and verdicts[Knocked.NO]:
        return Advice(
            "the router maps a port to this machine, but others don't get through",
            "see whether the router itself is behind another NAT; its provider may have to help",
        )
    if verdicts[Knocked.ELSEWHERE]:
        return Advice("this machine is behind a NAT, and its router maps no port to it", FORWARD)
    if verdicts[Knocked.NO]:
        return Advice(
            "others don't get through to this machine's address",
            "let its firewall, and the router's, admit HIP's UDP port",
        )
    return Advice("nobody could tell whether this machine's own address is reached", RETRIED)


def _servers(seen: Seen) -> Advice:
    what = "relay or rendezvous server" if seen.visible else "relay"
    do = RETRIED if _is_cut_off(seen) else SERVER
    if seen.refusals:
        reasons = ", ".join(f"{why} ({n})" for why, n in Counter(seen.refusals).most_common(3))
        return Advice(f"no {what} serves this peer: {reasons}", do)
    if seen.known:
        return Advice(f"no {what} answers, of {seen.known} that are known", do)
    if seen.rendezvous:
        return Advice(
            "there is no relay, and a rendezvous server would show this peer's address to "
            "strangers",
            f"{SERVER}; or say visible = true in [host] of this one",
        )
    if not seen.searched:
        return Advice(f"no {what} was found yet", RETRIED)
    return Advice(f"no {what} is known in the overlay", SERVER)
