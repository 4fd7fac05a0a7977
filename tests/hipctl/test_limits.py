from hipctl.limits import Limiter, network


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
