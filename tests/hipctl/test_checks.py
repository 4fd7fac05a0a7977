"""One side's checks: when which is sent, and what is concluded from which answers."""

import pytest

from hipctl.actions import Address, Path, Relayed
from hipctl.candidates import Candidate, gather
from hipctl.checks import Ask, Checks, State
from hipctl.constants import CandidateKind
from hipctl.settings import CheckConfig

HOME, SEEN = ("192.168.1.5", 10500), ("203.0.113.1", 4001)
RELAY, RELAYED = ("198.51.100.1", 10500), ("198.51.100.1", 40001)
PEER, PEER_SEEN, PEER_RELAYED = ("10.1.1.1", 10500), ("192.0.2.9", 7), ("198.51.100.2", 8)
OURS = gather([HOME], [(SEEN, None)], [(RELAYED, RELAY, None)])
THEIRS = (
    Candidate(PEER, CandidateKind.HOST, 126 << 24),
    Candidate(PEER_SEEN, CandidateKind.SERVER_REFLEXIVE, 100 << 24),
    Candidate(PEER_RELAYED, CandidateKind.RELAYED, 255),
)
DIRECT, RELAY_PATH = Path(HOME, PEER_SEEN), Path(HOME, PEER_RELAYED)
STRANGER = Path(HOME, ("192.0.2.77", 5))
PRFLX = 110 << 24 | 5


def started(controlling: bool = True, **config: float) -> Checks:
    checks = Checks(controlling, config=CheckConfig(**config))  # type: ignore[arg-type]
    checks.start(OURS, THEIRS, 0.0)
    return checks


def run(checks: Checks, until: float) -> list[tuple[float, Ask]]:
    """What is asked until then."""
    asked: list[tuple[float, Ask]] = []
    while (at := checks.deadline()) is not None and at <= until:
        asked += [(at, ask) for ask in checks.on_time(at)]
    return asked


def find(asked: list[tuple[float, Ask]], path: Path) -> Ask:
    return next(ask for _, ask in asked if ask.path == path)


def answer(checks: Checks, ask: Ask, now: float, mapped: Address = SEEN) -> None:
    assert checks.on_response(ask, ask.path, mapped, now)


def conclude(checks: Checks, path: Path, now: float) -> float:
    """Have the controlling side select ``path``; return when."""
    asked = run(checks, now)
    answer(checks, find(asked, path), now)
    while checks.state is not State.COMPLETED:
        at = checks.deadline()
        assert at is not None
        for ask in checks.on_time(at):
            if ask.nominate:
                answer(checks, ask, at)
    return checks._completed_at


def test_faster_than_five_milliseconds_is_refused() -> None:
    with pytest.raises(ValueError, match="pacing"):
        Checks(True, 0.004)
    with pytest.raises(ValueError, match="pacing"):
        Checks(True, float("nan"))


def test_nothing_is_asked_before_the_peer_has_told_its_candidates() -> None:
    checks = Checks(True)
    assert checks.on_request(STRANGER, PRFLX, False, 0.0) is None
    assert (checks.deadline(), checks.on_time(5.0), checks.state) == (None, [], State.IDLE)


def test_checks_are_paced_and_in_order_of_priority() -> None:
    asked = run(started(), 0.5)
    assert [at for at, _ in asked] == pytest.approx([0.05 * i for i in range(6)])
    assert [ask.path for _, ask in asked[:2]] == [Path(HOME, PEER), DIRECT]
    assert len({ask.path for _, ask in asked}) == len({ask.number for _, ask in asked}) == 6


def test_a_check_shows_the_priority_of_a_peer_reflexive_candidate() -> None:
    asked = run(started(), 0.5)
    assert {ask.priority for _, ask in asked} == {110 << 24 | 65535 << 8 | 255}
    assert not any(ask.nominate for _, ask in asked)


def test_the_rto_is_a_second_or_as_long_as_all_checks_take() -> None:
    assert {ask.rto for _, ask in run(started(), 0.5)} == {1.0}
    slow = Checks(True, 0.4)
    slow.start(OURS, THEIRS, 0.0)
    assert [ask.rto for _, ask in run(slow, 2.0)] == pytest.approx([2.4] * 6)


def test_a_check_that_comes_has_ours_sent_before_the_others() -> None:
    checks = started()
    first = run(checks, 0.0)
    assert [ask.path for _, ask in first] == [Path(HOME, PEER)]
    checks.on_request(STRANGER, PRFLX, False, 0.01)
    assert [ask.path for _, ask in run(checks, 0.05)] == [STRANGER]


def test_a_check_in_progress_is_repeated_no_more_when_the_peer_asks_but_asked_anew() -> None:
    checks = started()
    (_, ask) = run(checks, 0.05)[1]
    assert checks.wanted(ask)
    checks.on_request(DIRECT, PRFLX, False, 0.06)
    assert not checks.wanted(ask)
    again = find(run(checks, 0.1), DIRECT)
    assert checks.wanted(again)
    checks.on_given_up(ask, 0.2)  # says nothing: another check is on its way
    answer(checks, ask, 0.3)  # but its answer does
    assert checks.valid() == [DIRECT]
    assert not checks.wanted(again)


def test_checks_that_came_before_the_candidates_are_answered_with_ours_first() -> None:
    checks = Checks(False)
    checks.on_request(STRANGER, PRFLX, False, 0.0)
    checks.on_request(DIRECT, PRFLX, False, 0.01)
    checks.start(OURS, THEIRS, 0.1)
    assert [ask.path for _, ask in run(checks, 0.2)][:2] == [STRANGER, DIRECT]


def test_an_answer_along_another_path_is_refused() -> None:
    checks = started()
    ask = find(run(checks, 0.5), DIRECT)
    assert not checks.on_response(ask, Path(HOME, PEER), SEEN, 0.5)
    assert not checks.on_response(ask, Path(SEEN, PEER_SEEN), SEEN, 0.5)
    assert not checks.on_response(ask, Path(HOME, Relayed(PEER_SEEN, RELAY)), SEEN, 0.5)
    assert checks.valid() == []
    assert checks.on_response(ask, Path(None, PEER_SEEN), SEEN, 0.5)


def test_the_best_pair_is_nominated_at_once() -> None:
    checks = started()
    ask = find(run(checks, 0.0), Path(HOME, PEER))
    answer(checks, ask, 0.01, HOME)
    ((at, nominating),) = run(checks, 0.05)
    assert (at, nominating.path, nominating.nominate) == (0.05, Path(HOME, PEER), True)
    assert checks.selected is None
    answer(checks, nominating, 0.06, HOME)
    described = checks.describe()
    assert (described["state"], described["relayed"]) == ("COMPLETED", False)
    assert described["selected"] == [HOME, list(PEER)]
    assert checks.deadline() is None


def test_a_direct_pair_waits_for_better_ones_but_not_long() -> None:
    checks = started()
    asked = run(checks, 0.05)
    answer(checks, find(asked, DIRECT), 0.06)  # it took 10 ms, and the better one has had more
    assert run(checks, 0.1)[0][1].nominate

    slow = started(settle=0.02)
    asked = run(slow, 0.05)
    answer(slow, find(asked, DIRECT), 0.25)
    assert run(slow, 0.269)[-1][1].nominate is False
    assert any(ask.nominate for _, ask in run(slow, 0.33))


def test_a_relayed_pair_is_nominated_when_patience_ends() -> None:
    checks = started(patience=0.7)
    at = conclude(checks, RELAY_PATH, 0.3)
    assert at == pytest.approx(0.7)
    assert checks.relayed
    assert checks.selected == RELAY_PATH


def test_a_direct_pair_that_works_later_is_nominated_anew() -> None:
    checks = started()
    asked = run(checks, 0.3)
    at = conclude(started(), RELAY_PATH, 0.3)
    answer(checks, find(asked, RELAY_PATH), 0.3)
    while checks.state is not State.COMPLETED:
        for _, ask in run(checks, checks.deadline() or 0.0):
            answer(checks, ask, at)
    assert checks.wanted(find(asked, DIRECT))  # it is still tried
    assert not checks.wanted(find(asked, Path(None, Relayed(PEER_SEEN, RELAY))))
    answer(checks, find(asked, DIRECT), 1.0)
    ask = next(ask for _, ask in run(checks, 1.2) if ask.nominate)
    assert (ask.path, checks.selected) == (DIRECT, RELAY_PATH)
    answer(checks, ask, 1.3)
    assert (checks.selected, checks.relayed, checks.deadline()) == (DIRECT, False, None)


def test_a_direct_pair_that_works_overtakes_a_nomination_under_way() -> None:
    checks = started()
    asked = run(checks, 0.3)
    answer(checks, find(asked, RELAY_PATH), 0.3)
    relaying = next(ask for _, ask in run(checks, 0.5) if ask.nominate)
    answer(checks, find(asked, DIRECT), 0.55)
    ask = next(ask for _, ask in run(checks, 0.7) if ask.nominate)
    assert (relaying.path, ask.path) == (RELAY_PATH, DIRECT)
    answer(checks, relaying, 0.75)  # too late to be selected
    assert checks.selected is None
    answer(checks, ask, 0.8)
    assert checks.selected == DIRECT


def test_the_controlled_side_selects_what_is_nominated_once_its_own_check_was_answered() -> None:
    checks = started(False)
    asked = run(checks, 0.3)
    confirm = checks.on_request(DIRECT, PRFLX, True, 0.4)
    assert confirm is not None
    assert (confirm.nominate, confirm.path) == (True, DIRECT)
    assert checks.selected is None
    answer(checks, confirm, 0.5)
    assert checks.selected == DIRECT

    other = started(False)
    asked = run(other, 0.3)
    answer(other, find(asked, DIRECT), 0.35)
    assert other.selected is None
    assert other.on_request(DIRECT, PRFLX, True, 0.4) is not None
    assert other.selected == DIRECT


def test_the_controlled_side_nominates_nothing() -> None:
    checks = started(False)
    for _, ask in run(checks, 0.3):
        answer(checks, ask, 0.4)
    assert run(checks, 9.0) == []
    assert checks.selected is None
    assert len(checks.valid()) == 6
    assert checks.valid()[0] == Path(HOME, PEER)


def test_the_controlling_side_sets_a_nomination_right_that_was_overtaken() -> None:
    checks = started()
    conclude(checks, DIRECT, 0.3)
    assert checks.on_request(RELAY_PATH, PRFLX, True, 1.0) is None
    ask = next(ask for _, ask in run(checks, 1.1) if ask.nominate)
    assert ask.path == DIRECT


def test_when_no_pair_works_the_checks_fail_and_a_check_that_comes_revives_them() -> None:
    checks = started(False)
    asked = run(checks, 9.9)
    for _, ask in asked:
        checks.on_given_up(ask, 9.9)
    assert not checks.failed
    run(checks, 10.0)
    assert checks.failed
    assert checks.deadline() is None
    checks.on_request(STRANGER, PRFLX, False, 20.0)
    assert not checks.failed
    assert [ask.path for _, ask in run(checks, 20.0)] == [STRANGER]


def test_valid_pairs_that_nobody_nominates_fail_later() -> None:
    checks = started(False)
    answer(checks, find(run(checks, 0.3), DIRECT), 0.3)
    run(checks, 19.9)
    assert not checks.failed
    run(checks, 20.0)
    assert checks.failed


def test_a_restart_that_the_controlling_side_knows_nothing_of_ends_with_the_pair_in_use() -> None:
    checks = started(False)
    confirm = checks.on_request(DIRECT, PRFLX, True, 0.1)
    assert confirm is not None
    answer(checks, confirm, 0.2)
    checks.start(OURS, THEIRS, 50.0)
    answer(checks, find(run(checks, 50.3), DIRECT), 50.3)
    run(checks, 60.0)
    assert (checks.state, checks.selected) == (State.COMPLETED, DIRECT)
    assert checks.deadline() is None


def test_without_any_pair_the_peer_has_its_chance() -> None:
    checks = Checks(True)
    checks.start(OURS, [Candidate(("2001:db8::9", 1), CandidateKind.HOST, 1)], 0.0)
    assert run(checks, 9.0) == []
    assert not checks.failed
    checks.on_request(STRANGER, PRFLX, False, 9.0)
    assert [ask.path for _, ask in run(checks, 9.1)] == [STRANGER]


def test_a_relayed_association_looks_for_a_direct_pair_again_and_again() -> None:
    checks = started()
    at = conclude(checks, RELAY_PATH, 0.3)
    times = [when - at for when, ask in run(checks, at + 200) if ask.path == DIRECT]
    assert times == pytest.approx([2, 7, 22, 52, 112, 172], abs=0.2)


def test_a_check_along_the_relayed_pair_in_use_has_us_look_too() -> None:
    checks = started(False)
    run(checks, 0.3)
    confirm = checks.on_request(RELAY_PATH, PRFLX, True, 0.4)
    assert confirm is not None
    answer(checks, confirm, 0.5)
    assert checks.state is State.COMPLETED
    run(checks, 30.0)  # rounds at 2.5, 7.5, 22.5
    for _ in range(3):
        checks.on_request(RELAY_PATH, PRFLX, False, 31.0)
    assert {ask.path for _, ask in run(checks, 31.5)} == {
        RELAY_PATH,
        Path(HOME, PEER),
        DIRECT,
    }


def hidden(relays: int = 2) -> Checks:
    """Both sides show nothing but what so many relays lend them."""
    servers = [(f"198.51.100.{3 + n}", 10500) for n in range(relays)]
    lent = gather([HOME], [], [((ip, 41000), (ip, port), None) for ip, port in servers])
    theirs = [Candidate((ip, 7), CandidateKind.RELAYED, 7) for ip, _ in servers]
    checks = Checks(True)
    checks.start([one for one in lent if one.via], theirs, 0.0)
    return checks


FIRST = run(hidden(), 0.0)[0][1].path


def test_pairs_between_relays_are_checked_one_at_a_time() -> None:
    times = [at for at, _ in run(hidden(), 3.0)]
    assert times == pytest.approx([0.0, 0.5, 1.0, 1.5])


def test_many_pairs_between_relays_all_get_their_turn_before_we_give_up() -> None:
    checks = hidden(8)
    asked = run(checks, 9.9)
    assert len({ask.path for _, ask in asked}) == len(checks._list) == 64


def test_where_one_pair_between_relays_works_no_other_is_checked() -> None:
    checks = hidden()
    conclude(checks, FIRST, 0.1)
    assert (len(checks.valid()), run(checks, 60.0)) == (1, [])


def test_a_check_along_a_relayed_pair_that_nothing_could_better_costs_its_answer_only() -> None:
    checks = hidden()
    conclude(checks, FIRST, 0.1)
    checks.on_request(FIRST, PRFLX, False, 31.0)
    assert run(checks, 60.0) == []


def test_pairs_between_relays_are_checked_when_the_one_in_use_falls_silent() -> None:
    checks = hidden()
    conclude(checks, FIRST, 0.1)
    checks.on_silence(50.0)
    asked = run(checks, 50.2)  # and not one at a time: somebody is waiting
    assert asked[0][1].path == FIRST
    assert len({ask.path for _, ask in asked}) == 4


def test_a_pair_between_relays_that_answers_nothing_is_checked_and_then_replaced() -> None:
    checks = hidden()
    conclude(checks, FIRST, 0.1)
    checks.on_doubt(10.0)
    assert run(checks, 15.0) == []  # it has answered not long ago
    checks.on_doubt(20.0)
    ((_, ask),) = run(checks, 21.0)
    assert (ask.path, ask.nominate) == (FIRST, True)
    checks.on_doubt(21.0)  # it is on its way
    answer(checks, ask, 21.1)
    checks.on_doubt(30.0)
    assert run(checks, 37.0) == []
    checks.on_doubt(37.0)
    ((_, ask),) = run(checks, 39.0)
    checks.on_given_up(ask, 40.0)
    assert len({ask.path for _, ask in run(checks, 40.2)}) == 4


def test_a_pair_that_a_check_has_shown_does_not_make_room_for_one_beside_it() -> None:
    checks = started()
    conclude(checks, RELAY_PATH, 0.3)
    for n in range(100):
        path = Path(None, Relayed(("192.0.2.200", 1 + n), RELAY))
        checks.on_request(path, PRFLX, False, 1.0 + n / 100)
        assert checks._list.find(path) is not None


def test_where_rounds_look_anyway_a_doubt_is_no_more() -> None:
    checks = started()
    at = conclude(checks, RELAY_PATH, 0.3)
    run(checks, at + 60)
    checks.on_doubt(at + 60)
    assert run(checks, at + 61) == []


def test_silence_has_the_selected_pair_and_the_relays_checked_first() -> None:
    checks = started()
    conclude(checks, DIRECT, 0.3)
    checks.on_silence(50.0)
    assert checks.selected == DIRECT
    paths = [ask.path for _, ask in run(checks, 50.1)]
    assert paths[0] == DIRECT
    assert isinstance(paths[1].to, Relayed)


def test_a_selected_pair_that_works_after_all_is_nominated_again() -> None:
    checks = started()
    conclude(checks, DIRECT, 0.3)
    checks.on_silence(50.0)
    answer(checks, find(run(checks, 50.0), DIRECT), 50.1)
    ask = next(ask for _, ask in run(checks, 50.2) if ask.nominate)
    answer(checks, ask, 50.3)
    assert (checks.selected, checks.state, checks.deadline()) == (DIRECT, State.COMPLETED, None)


def test_a_check_from_elsewhere_long_after_the_conclusion_raises_doubts() -> None:
    checks = started()
    at = conclude(checks, DIRECT, 0.3)
    checks.on_request(STRANGER, PRFLX, False, at + 1.0)
    assert checks.describe()["state"] == "COMPLETED"
    assert [ask.path for _, ask in run(checks, at + 1.0)] == [STRANGER]
    checks.on_request(Path(HOME, ("192.0.2.77", 6)), PRFLX, False, at + 5.0)
    assert checks.state is State.RUNNING
    assert checks.selected == DIRECT


def test_a_restart_keeps_the_selected_path_until_another_is_nominated() -> None:
    checks = started()
    conclude(checks, DIRECT, 0.3)
    new = ("192.0.2.200", 9)
    checks.start(OURS, [Candidate(new, CandidateKind.HOST, 5)], 60.0)
    assert (checks.selected, checks.state) == (DIRECT, State.RUNNING)
    conclude(checks, Path(HOME, new), 60.1)
    assert checks.selected == Path(HOME, new)


def test_what_it_says_of_itself_is_json() -> None:
    checks = started()
    conclude(checks, DIRECT, 0.3)
    described = checks.describe()
    assert described["state"] == "COMPLETED"
    assert described["selected"] == [HOME, list(PEER_SEEN)]


OTHER_RELAY = ("198.51.100.3", 8)
TWO_RELAYS = (*THEIRS[2:], Candidate(OTHER_RELAY, CandidateKind.RELAYED, 200))
OTHER_PATH = Path(HOME, OTHER_RELAY)


def with_two_relays(controlling: bool = True) -> Checks:
    """Data goes through one of two relays of the peer's."""
    checks = Checks(controlling)
    checks.start(OURS[:1], TWO_RELAYS, 0.0)
    if controlling:
        conclude(checks, RELAY_PATH, 1.0)
    else:
        ask = find(run(checks, 1.0), RELAY_PATH)
        checks.on_request(RELAY_PATH, PRFLX, True, 1.0)
        answer(checks, ask, 1.0)
    assert checks.selected == RELAY_PATH
    return checks


def test_a_relay_is_mute_only_where_checks_pass() -> None:
    checks = with_two_relays()
    run(checks, 20.0)
    checks.on_unanswered(20.0, 20.5)
    asked = run(checks, 22.0)
    assert [ask.path for _, ask in asked] == [RELAY_PATH]
    assert not checks.on_mute(20.0, 22.0)
    assert checks.state is State.RUNNING  # others are looked for all the same
    assert not checks.on_mute(22.0, 26.0)
    run(checks, 32.0)
    assert checks.failed  # no sooner nor later than without
    checks = with_two_relays()
    checks.on_unanswered(20.0, 20.5)
    answer(checks, find(run(checks, 21.0), RELAY_PATH), 21.0)
    assert checks.on_mute(20.0, 22.0)
    assert {ask.path for _, ask in run(checks, 22.01)} == {OTHER_PATH}


@pytest.mark.parametrize("controlling", [True, False])
def test_a_check_through_a_mute_relay_is_answered_when_the_pair_in_use_is_not(
    controlling: bool,
) -> None:
    checks = with_two_relays(controlling)
    checks.on_unanswered(10.0, 10.5)
    answer(checks, find(run(checks, 11.0), RELAY_PATH), 11.0)
    assert checks.on_mute(10.0, 12.0)
    answer(checks, find(run(checks, 12.5), OTHER_PATH), 12.5)
    if controlling:
        answer(checks, find(run(checks, 13.0), OTHER_PATH), 13.0)
    else:
        confirmed = checks.on_request(OTHER_PATH, PRFLX, True, 13.0)
        assert confirmed is not None
        answer(checks, confirmed, 13.0)
    assert checks.selected == OTHER_PATH
    assert not checks.ignores(OTHER_PATH, 14.0)
    assert checks.ignores(RELAY_PATH, 14.0)
    assert checks.ignores(RELAY_PATH, 20.0)
    answer(checks, find(run(checks, 20.1), OTHER_PATH), 20.1)
    assert checks.ignores(RELAY_PATH, 20.5)
    assert checks.ignores(RELAY_PATH, 30.0)
    find(run(checks, 30.5), OTHER_PATH)  # nobody answers
    assert checks.ignores(RELAY_PATH, 30.5)
    assert not checks.ignores(RELAY_PATH, 31.0)
    assert not checks.ignores(RELAY_PATH, 31.1)
