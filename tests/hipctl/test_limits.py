import pytest
from hypothesis import given
from hypothesis import strategies as st

from hipctl.clients import Account
from hipctl.limits import Allowance, Limiter, network


def test_a_burst_passes_then_the_rate_limits() -> None:
    limiter = Limiter(2.0, 3, 10)
    assert [limiter.allow("a", 0.0) for _ in range(5)] == [True] * 3 + [False] * 2
    assert limiter.allow("b", 0.0)
    assert [limiter.allow("a", 0.5) for _ in range(2)] == [True, False]
    assert [limiter.allow("a", 99.0) for _ in range(4)] == [True] * 3 + [False]


def test_the_table_is_bounded_and_forgets_who_was_seen_longest_ago() -> None:
    limiter = Limiter(0.0, 1, 2)
    assert limiter.allow("a", 0.0)
    assert limiter.allow("b", 0.0)
    assert not limiter.allow("a", 0.0)
    assert limiter.allow("c", 0.0)  # b makes room
    assert not limiter.allow("a", 0.0)
    assert limiter.allow("b", 0.0)


def test_ipv6_addresses_of_one_64_count_as_one() -> None:
    assert network("192.0.2.1") == "192.0.2.1"
    assert network("2001:db8::1") == network("2001:db8::ffff:2")
    assert network("2001:db8::1") != network("2001:db8:0:1::1")
    assert network("fe80::1%eth0") == network("fe80::2")
    assert network("not:an:address") == "not:an:address"


def test_whether_one_is_exhausted_costs_nothing() -> None:
    limiter = Limiter(1.0, 2, 1)
    assert not limiter.exhausted("a", 0.0)
    limiter.allow("a", 0.0)
    assert not any(limiter.exhausted("a", 0.0) for _ in range(9))
    limiter.allow("a", 0.0)
    assert limiter.exhausted("a", 0.5)
    assert not limiter.exhausted("b", 0.5)
    assert not limiter.exhausted("a", 1.0)


PACKETS = st.lists(st.tuples(st.floats(0, 2), st.integers(1, 1_500)), max_size=200)


@given(PACKETS, st.sampled_from([0.0, 0.5, 3.0, 100.0]), st.sampled_from([0.0, 500.0, 1e5]))
def test_an_account_passes_a_second_s_worth_at_once_and_its_rate_in_the_long_run(
    packets: list[tuple[float, int]], rate: float, bandwidth: float
) -> None:
    account = Account(Allowance(rate, 0, 0.0), Allowance(0, bandwidth, 0.0))
    now, passed, size_passed = 0.0, 0, 0
    for pause, size in packets:
        now += pause
        if account.pays(size, lambda now=now: now):  # type: ignore[misc]
            passed, size_passed = passed + 1, size_passed + size
    assert (account.packets, account.bytes) == (passed, size_passed)
    assert account.dropped == len(packets) - passed
    assert not rate or passed <= max(rate, 1) + rate * now
    assert not bandwidth or size_passed <= max(bandwidth, 2_048) + bandwidth * now
    if not rate and not bandwidth:
        assert passed == len(packets)


def test_one_client_cannot_keep_all_that_all_may_have() -> None:
    total = Allowance(0, 200_000, 0.0)
    greedy, other = (Account(Allowance(0, 0, 0.0), total) for _ in range(2))
    assert greedy.pays(100, lambda: 0.0)
    assert other.pays(100, lambda: 0.0)


@given(PACKETS, st.sampled_from([1.0, 5.0, 100.0]), st.sampled_from([0.5, 4.0]))
def test_an_account_passes_at_once_what_its_burst_says(
    packets: list[tuple[float, int]], rate: float, burst: float
) -> None:
    account = Account(Allowance(rate, 1_000.0, 0.0, burst), Allowance(0, 0, 0.0))
    now, passed, size_passed = 0.0, 0, 0
    for pause, size in packets:
        now += pause
        if account.pays(size, lambda now=now: now):  # type: ignore[misc]
            passed, size_passed = passed + 1, size_passed + size
    assert passed <= max(rate * burst, 1) + rate * now
    assert size_passed <= max(1_000 * burst, 2_048) + 1_000 * now


@given(st.sampled_from([0.0, 1.0, 2.0, 30.0, 1_000.0]), st.sampled_from([0.0, 500.0, 1e5]))
def test_who_keeps_something_for_others_passes_the_rest_and_one_packet_at_least(
    rate: float, bandwidth: float
) -> None:
    total = Allowance(rate, bandwidth, 0.0)
    modest, other = Account(Allowance(0, 0, 0.0), total, 0.1), Account(Allowance(0, 0, 0.0), total)
    passed = sum(modest.pays(100, lambda: 0.0) for _ in range(2_000))
    assert passed >= 1
    assert not rate or passed <= max(1, 0.9 * rate)
    assert not bandwidth or 100 * passed <= max(2_048, 0.9 * bandwidth)
    if not rate and not bandwidth:
        assert passed == 2_000
    elif rate != 1.0 and bandwidth != 500.0:  # there it was the only one
        assert other.pays(100, lambda: 0.0)


def test_an_account_tells_when_half_of_its_own_is_used() -> None:
    account = Account(Allowance(10, 0, 0.0, 2.0), Allowance(0, 0, 0.0))
    for n in range(20):
        assert account.spares(0.5, 0.0) is (n <= 10)
        assert account.pays(100, lambda: 0.0)
    assert not account.spares(0.5, 0.9)
    assert account.spares(0.5, 1.0)


def test_an_account_goes_on_under_new_limits() -> None:
    account = Account(Allowance(0, 0, 0.0), Allowance(0, 0, 0.0))
    assert all(account.pays(100, lambda: 0.0) for _ in range(10))
    account.limit(Allowance(5, 0, 0.0), Allowance(0, 0, 0.0))
    assert sum(account.pays(100, lambda: 0.0) for _ in range(10)) == 5
    assert (account.packets, account.bytes, account.dropped) == (15, 1_500, 5)


@pytest.mark.parametrize("sizes", [(40, 1_400), (1_400, 40)])
def test_nobody_saves_up_more_than_its_burst_by_sending_packets_of_another_size(
    sizes: tuple[int, int],
) -> None:
    rate, bandwidth = 100.0, 20_000.0
    account = Account(Allowance(rate, bandwidth, 0.0), Allowance(0, 0, 0.0))
    now = 0.0
    for _ in range(20_000):
        now += 0.01
        account.pays(sizes[0], lambda now=now: now)  # type: ignore[misc]
    passed = sum(account.pays(sizes[1], lambda: now) for _ in range(10_000))
    assert passed <= rate + 64
    assert passed * sizes[1] <= bandwidth + 65_536
