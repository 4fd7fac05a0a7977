import asyncio

from hypothesis import given
from hypothesis import strategies as st

from hipctl.sansio import Driver, Timers
from sim.loop import simulate


@given(st.lists(st.tuples(st.sampled_from("abc"), st.floats(0, 10)), max_size=20))
def test_timers_fire_once_in_order_and_the_latest_setting_counts(
    settings: list[tuple[str, float]],
) -> None:
    timers = Timers[str]()
    for name, at in settings:
        timers.set(name, at)
    expected = dict(settings)
    assert timers.deadline() == min(expected.values(), default=None)
    fired = timers.expired(10)
    assert sorted(fired) == sorted(expected)
    assert [expected[name] for name in fired] == sorted(expected.values())
    assert timers.deadline() is None
    assert timers.expired(10) == []


class Countdown:
    """A machine that fires three times, a second apart."""

    def __init__(self) -> None:
        self.timers = Timers[str]()
        self.left = 3

    def start(self, now: float) -> list[float]:
        self.timers.set("tick", now + 1)
        return []

    def deadline(self) -> float | None:
        return self.timers.deadline()

    def on_time(self, now: float) -> list[float]:
        for _ in self.timers.expired(now):
            self.left -= 1
            if self.left:
                self.timers.set("tick", now + 1)
            return [now]
        return []


def test_an_action_that_breaks_does_not_stop_the_clock() -> None:
    async def main() -> list[float]:
        performed: list[float] = []

        def perform(action: float) -> None:
            performed.append(action)
            if len(performed) == 1:
                raise ZeroDivisionError

        loop = asyncio.get_running_loop()
        raised: list[object] = []
        loop.set_exception_handler(lambda _, context: raised.append(context.get("exception")))
        driver = Driver(Countdown(), perform)
        driver.feed(driver._machine.start)  # type: ignore[attr-defined]
        await asyncio.sleep(20)
        assert [type(each) for each in raised] == [ZeroDivisionError]
        return performed

    assert simulate(main) == [1, 2, 3]


class Broken(Countdown):
    """Breaks before it has put its timer off."""

    def on_time(self, now: float) -> list[float]:
        self.left -= 1
        raise ZeroDivisionError


def test_a_machine_that_breaks_whenever_it_is_due_is_asked_again_only_now_and_then() -> None:
    async def main() -> int:
        machine = Broken()
        loop = asyncio.get_running_loop()
        loop.set_exception_handler(lambda _loop, _context: None)
        driver = Driver(machine, lambda _: None)
        driver.feed(machine.start)
        for _ in range(1000):
            await asyncio.sleep(0.01)
        driver.close()
        return machine.left

    assert -10 <= simulate(main) < 0


def test_a_driver_performs_actions_at_their_deadlines_and_stops_when_closed() -> None:
    async def scenario(close_after: float) -> list[float]:
        performed: list[float] = []
        driver = Driver(Countdown(), performed.append)
        driver.feed(driver._machine.start)  # type: ignore[attr-defined]
        await asyncio.sleep(close_after)
        driver.close()
        await asyncio.sleep(10)
        return performed

    assert simulate(lambda: scenario(20)) == [1, 2, 3]
    assert simulate(lambda: scenario(1.5)) == [1]
