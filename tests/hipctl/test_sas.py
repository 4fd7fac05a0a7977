from hipctl import esp
from hipctl.engine import EngineConfig
from hipctl.identity import HostIdentity
from hipctl.sas import Inbound, Outbound, SaPair, Verdict, pause

CONFIG = EngineConfig(unused_lifetime=100.0, unanswered_lifetime=30.0)
A, B = (HostIdentity.from_secret(n).hit for n in (1, 2))


def pair() -> SaPair:
    keymat = bytes(esp.keymat_length(13))
    inbound = Inbound(esp.InboundSa(13, 300, keymat), A, B, 0.0)
    outbound = Outbound(esp.OutboundSa(13, 301, keymat), ("192.0.2.1", 10500))
    return SaPair(inbound, outbound, CONFIG.unanswered_lifetime, 0.0)


def looks(sas: SaPair, until: float, *, sends: bool, hears: bool) -> list[Verdict]:
    verdicts, now = [], 0.0
    while now < until:
        if sends:
            sas.outbound.sa.seal(17, b"x")
        if hears:
            sas.inbound.heard_at = now + 1
        now += pause(CONFIG)
        verdicts.append(sas.check(now, CONFIG))
    return verdicts


def test_what_is_sent_and_answered_stays() -> None:
    assert set(looks(pair(), 300, sends=True, hears=True)) == {Verdict.USED}


def test_what_is_only_heard_stays() -> None:
    assert set(looks(pair(), 300, sends=False, hears=True)) == {Verdict.USED}


def test_silence_on_both_sides_is_unused_after_its_lifetime() -> None:
    verdicts = looks(pair(), 105, sends=False, hears=False)
    assert verdicts == [Verdict.USED] * 6 + [Verdict.UNUSED]


def test_silence_on_the_other_side_is_doubted_with_growing_patience() -> None:
    verdicts = looks(pair(), 225, sends=True, hears=False)
    doubted = [n for n, verdict in enumerate(verdicts) if verdict is Verdict.UNANSWERED]
    assert doubted == [1, 5, 13]  # after 30 s, then 60, then 120


def test_one_packet_just_before_a_look_is_no_doubt() -> None:
    sas = pair()
    sas.outbound.sa.seal(17, b"x")
    assert sas.check(15.0, CONFIG) is Verdict.USED
    sas.inbound.heard_at = 15.1
    sas.outbound.sa.seal(17, b"x")
    assert sas.check(30.0, CONFIG) is Verdict.USED
    assert sas.check(45.0, CONFIG) is Verdict.USED
