import random
from dataclasses import replace

import pytest

from hipctl import params, puzzle
from hipctl.constants import PacketType
from hipctl.engine import EngineConfig
from hipctl.errors import Rejected
from hipctl.identity import HostIdentity
from hipctl.packet import Packet, build
from hipctl.responder import Responder
from sim.engines import FAST

A, B, C = (HostIdentity.from_secret(n) for n in (1, 2, 3))
SOURCE = ("192.0.2.1", 10500)
CONFIG = replace(FAST, k=0)  # any J is a solution


def responder(config: EngineConfig = CONFIG) -> Responder:
    return Responder(B, config, random.Random(1).randbytes)


def i1(groups: tuple[int, ...] = (7, 8), sender: HostIdentity = A) -> Packet:
    return Packet(build(PacketType.I1, sender.hit, B.hit, [params.DhGroupList(groups)]))


def ask(
    subject: Responder, now: float, packet: Packet | None = None, source: tuple[str, int] = SOURCE
) -> Packet:
    return Packet(subject.answer(packet or i1(), source, now))


def i2(r1: Packet, j: bytes = bytes(48), sender: HostIdentity = A) -> Packet:
    asked = r1.need(params.Puzzle)
    solution = params.Solution(asked.k, asked.opaque, asked.random_i, j)
    parameters: list[params.Parameter] = [r1.need(params.R1Counter), solution]
    return Packet(build(PacketType.I2, sender.hit, B.hit, parameters))


def test_r1s_of_one_generation_share_signature_and_dh_key_but_not_the_puzzle() -> None:
    subject = responder()
    first, second = ask(subject, 0.0), ask(subject, 1.0, i1(sender=C), ("192.0.2.3", 1))
    assert (first.receiver, second.receiver) == (A.hit, C.hit)
    assert first.need(params.HipSignature2) == second.need(params.HipSignature2)
    assert first.need(params.DiffieHellman) == second.need(params.DiffieHellman)
    assert first.need(params.Puzzle).random_i != second.need(params.Puzzle).random_i
    for r1 in (first, second):
        signature = r1.need(params.HipSignature2).signature
        assert B.host_id.verify(signature, r1.covered_by_signature_2())


def test_a_new_generation_has_new_keys_and_a_greater_number() -> None:
    subject = responder(replace(CONFIG, first_generation=1_700_000_000))
    r1s = [ask(subject, now) for now in (0.0, 63.9, 64.0, 500.0)]
    numbers = [r1.need(params.R1Counter).generation - 1_700_000_000 for r1 in r1s]
    assert numbers == [0, 0, 1, 2]
    assert len({r1.need(params.DiffieHellman).public for r1 in r1s}) == 3
    assert len({r1.need(params.Puzzle).opaque for r1 in r1s}) == 3


def test_each_group_has_its_own_r1() -> None:
    subject = responder()
    groups = [
        ask(subject, 0.0, i1(offered)).need(params.DiffieHellman).group
        for offered in ((7, 8), (8, 7), (8,), (3, 8), (3,), ())
    ]
    assert groups == [7, 7, 8, 8, 7, 7]  # ours first; without a common one any (RFC 7401 §6.7)


def test_the_announced_lifetime_is_one_generation() -> None:
    assert ask(responder(), 0.0).need(params.Puzzle).seconds == 64.0
    short = responder(replace(CONFIG, generation_lifetime=20.0))
    assert ask(short, 0.0).need(params.Puzzle).seconds == 16.0


def test_an_i2_shows_when_its_r1_was_sent() -> None:
    subject = responder()
    ask(subject, 5.0)
    vetted = subject.vet(i2(ask(subject, 7.25)), SOURCE, 60.0)
    assert vetted.issued_at == pytest.approx(7.25, abs=0.001)
    assert vetted.generation.keys[7].public


@pytest.mark.parametrize(
    ("name", "reason"),
    [
        ("sender", "I2 answers no R1 of ours"),
        ("source", "I2 answers no R1 of ours"),
        ("port", "I2 answers no R1 of ours"),
        ("stamp", "I2 answers no R1 of ours"),
        ("mac", "I2 answers no R1 of ours"),
        ("k", "I2 answers no R1 of ours"),
        ("counter", "I2 answers no R1 of ours"),
        ("opaque", "I2 of an old R1"),
        ("late", "I2 of an old R1"),
    ],
)
def test_an_i2_to_another_puzzle_is_refused(name: str, reason: str) -> None:
    subject = responder()
    r1 = ask(subject, 0.0)
    asked, counter = r1.need(params.Puzzle), r1.need(params.R1Counter)
    source = ("192.0.2.9", 10500) if name == "source" else SOURCE
    if name == "port":  # somebody else's, behind the same NAT
        source = (SOURCE[0], SOURCE[1] + 1)
    random_i, sender = asked.random_i, C if name == "sender" else A
    if name == "stamp":
        random_i = b"\1" + random_i[1:]
    if name == "mac":
        random_i = random_i[:-1] + bytes((random_i[-1] ^ 1,))
    opaque = b"\7\7" if name == "opaque" else asked.opaque
    solution = params.Solution(3 if name == "k" else 0, opaque, random_i, bytes(48))
    if name == "counter":
        counter = params.R1Counter(counter.generation + 1)
    packet = Packet(build(PacketType.I2, sender.hit, B.hit, [counter, solution]))
    with pytest.raises(Rejected, match=reason):
        subject.vet(packet, source, 128.0 if name == "late" else 1.0)


def test_an_i2_may_come_from_another_port_if_its_i1_came_through_a_rendezvous_server() -> None:
    subject = responder()
    r1 = Packet(subject.answer(i1(), SOURCE, 0.0, rendezvous=True))
    subject.vet(i2(r1), (SOURCE[0], 4242), 1.0)
    with pytest.raises(Rejected, match="I2 answers no R1 of ours"):
        subject.vet(i2(r1), ("192.0.2.9", SOURCE[1]), 1.0)


def test_a_solution_is_spent_once_for_its_sender() -> None:
    subject = responder()
    packet = i2(ask(subject, 0.0))
    subject.spend(A.hit, subject.vet(packet, SOURCE, 1.0))
    with pytest.raises(Rejected, match="solution used before"):
        subject.vet(packet, SOURCE, 1.0)
    subject.vet(i2(ask(subject, 0.0), j=b"\1" * 48), SOURCE, 1.0)
    subject.vet(i2(ask(subject, 0.0, i1(sender=C)), sender=C), SOURCE, 1.0)


def test_a_generation_ends_early_when_it_has_seen_its_fill_of_solutions() -> None:
    subject = responder(replace(CONFIG, spent_solutions=4, r1_burst=100))
    first = ask(subject, 0.0)
    for n in range(4):
        subject.spend(A.hit, subject.vet(i2(first, n.to_bytes(48, "big")), SOURCE, 1.0))
    second = ask(subject, 1.0)
    assert second.need(params.R1Counter).generation == 2
    subject.vet(i2(first, b"\2" * 48), SOURCE, 2.0)  # the old one is still accepted
    with pytest.raises(Rejected, match="used before"):
        subject.vet(i2(first), SOURCE, 2.0)


def test_blame_is_bounded() -> None:
    subject = responder(replace(CONFIG, spent_solutions=3, bad_i2_burst=100))
    first = ask(subject, 0.0)
    vetted = [subject.vet(i2(first, bytes([n]) * 48), SOURCE, 1.0) for n in range(9)]
    for one in vetted * 3:
        subject.blame(A.hit, one)
    assert len(vetted[0].generation.bad) == 3
    with pytest.raises(Rejected, match="solution of bad I2s"):
        subject.vet(i2(first), SOURCE, 1.0)


FIRM = replace(CONFIG, k=12, k_busy=16, calm_load=10.0, r1_rate=1e6, r1_burst=10**6)


def unsolved(r1: Packet) -> Packet:
    """An I2 to that R1 whose #J is no solution."""
    asked = r1.need(params.Puzzle)
    prefix = puzzle.prefix(asked.random_i, A.hit, B.hit)
    guesses = (bytes((n,)) * 48 for n in range(256))
    return i2(r1, next(j for j in guesses if not puzzle.verify(asked.k, prefix, j, "sha384")))


def test_puzzles_get_harder_with_what_is_asked_and_easier_when_it_ends() -> None:
    subject = responder(FIRM)
    seen = []
    for n in range(8000):  # 2,000 a second for 4 s: 62 looks a second
        r1 = ask(subject, n / 2000)
        seen.append(r1.need(params.Puzzle).k)
    assert seen[0] == 12
    assert seen == sorted(seen)
    assert seen[-1] == 14  # more than 2 times 10 looks a second, not yet 4 times
    assert subject.difficulty(8.0) == 13
    assert subject.difficulty(20.0) == 12


def test_puzzles_end_at_k_busy_and_below_k_max() -> None:
    for limits, hardest in (({"k_busy": 14}, 14), ({"k_max": 13}, 13), ({"k_busy": 3}, 12)):
        subject = responder(replace(FIRM, **limits, calm_load=0.001))  # type: ignore[arg-type]
        seen = {ask(subject, 0.0).need(params.Puzzle).k for _ in range(2000)}
        assert max(seen) == hardest


def test_an_answer_to_an_easier_puzzle_is_taken_while_new_ones_are_harder() -> None:
    subject = responder(replace(FIRM, k=0, k_busy=8))
    r1 = ask(subject, 0.0)
    for _ in range(8000):
        ask(subject, 1.0)
    assert subject.difficulty(1.0) > 2
    assert subject.vet(i2(r1), SOURCE, 1.0).solution.k == 0


def test_nobody_chooses_an_easier_puzzle() -> None:
    subject = responder(FIRM)
    asked = ask(subject, 0.0)
    of = asked.need(params.Puzzle)
    solution = params.Solution(0, of.opaque, of.random_i, bytes(48))
    packet = build(PacketType.I2, A.hit, B.hit, [asked.need(params.R1Counter), solution])
    with pytest.raises(Rejected, match="I2 answers no R1 of ours"):
        subject.vet(Packet(packet), SOURCE, 1.0)


def test_one_signature_serves_all_r1s_of_a_difficulty() -> None:
    subject = responder(replace(FIRM, calm_load=1.0))
    r1s = [ask(subject, n / 1000) for n in range(4000)]
    signed = {(r1.need(params.Puzzle).k, r1.need(params.HipSignature2).signature) for r1 in r1s}
    assert len(signed) == len({k for k, _ in signed}) > 2
    assert len({r1.need(params.DiffieHellman).public for r1 in r1s}) == 1


def test_bad_i2s_of_a_network_shut_it_out_before_anything_is_computed() -> None:
    subject = responder(replace(FIRM, bad_i2_rate=1.0, bad_i2_burst=4))
    elsewhere = ("192.0.2.77", 10500)
    bad = unsolved(ask(subject, 0.0))
    for _ in range(4):
        with pytest.raises(Rejected, match="puzzle not solved"):
            subject.vet(bad, SOURCE, 0.0)
    with pytest.raises(Rejected, match="bad I2 rate limit"):
        subject.vet(bad, SOURCE, 0.5)
    with pytest.raises(Rejected, match="puzzle not solved"):  # others are looked at
        subject.vet(unsolved(ask(subject, 0.0, source=elsewhere)), elsewhere, 0.5)
    with pytest.raises(Rejected, match="puzzle not solved"):  # and so are they, in time
        subject.vet(bad, SOURCE, 2.0)


def test_i2s_from_forged_addresses_shut_nobody_out() -> None:
    subject = responder(replace(FIRM, bad_i2_rate=0.0, bad_i2_burst=2))
    r1 = ask(subject, 0.0, source=("192.0.2.66", 1))  # the liar's own
    for _ in range(50):
        with pytest.raises(Rejected, match="I2 answers no R1 of ours"):
            subject.vet(unsolved(r1), SOURCE, 0.0)
    with pytest.raises(Rejected, match="puzzle not solved"):  # not: bad I2 rate limit
        subject.vet(unsolved(ask(subject, 0.0)), SOURCE, 0.0)


def test_solved_i2s_that_fail_later_count_as_bad() -> None:
    subject = responder(replace(CONFIG, bad_i2_rate=0.0, bad_i2_burst=2))
    r1 = ask(subject, 0.0)
    for n in range(2):
        subject.blame(A.hit, subject.vet(i2(r1, bytes((n,)) * 48), SOURCE, 0.0))
    with pytest.raises(Rejected, match="bad I2 rate limit"):
        subject.vet(i2(r1, bytes(48)), SOURCE, 9.0)
