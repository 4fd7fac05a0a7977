"""The demo's step in which a server dies shows something: with both dead it fails."""

import asyncio
import io
from contextlib import AsyncExitStack

import pytest
from net.programs import require_program

from sipgw.demo.picture import Progress
from sipgw.demo.process import StepFailed
from sipgw.demo.scenario import RENDEZVOUS, Demo, call_without, set_up, start_clients

pytestmark = [pytest.mark.net, pytest.mark.slow, pytest.mark.timeout(180)]


def test_with_both_rendezvous_servers_dead_nobody_is_called_through_one() -> None:
    """Whether anybody answers is another matter: bob's peer shows its own address in time."""
    require_program("baresip")
    out = io.StringIO()

    async def main(demo: Demo) -> None:
        async with AsyncExitStack() as stack:
            world = await set_up(demo, stack)
            clients = await start_clients(demo, world, stack)
            await call_without(demo, world, clients)
            assert f"{RENDEZVOUS[1]} passed her I1 on" in out.getvalue()
            with pytest.raises(StepFailed):
                await call_without(demo, world, clients, RENDEZVOUS[1:], alive=())

    demo = Demo(2.0, None, "baresip", Progress(out))
    asyncio.run(main(demo))
    steps = [(step["name"], step["ok"]) for step in demo.steps[-2:]]
    assert steps == [("kill a server", True), ("alice calls bob again", False)], out.getvalue()
