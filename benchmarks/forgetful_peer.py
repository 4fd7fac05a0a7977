"""``p2psip run`` that closes every association at SIGUSR1, so that the next call is a cold one."""

import asyncio
import signal
import sys
from typing import Any

from hipctl.host import LocalHost
from overlay.cli import main

_enter = LocalHost.__aenter__


async def _enter_and_listen(self: LocalHost) -> Any:
    def forget() -> None:
        for local, peer in list(self.engine.outbound):
            self.disconnect(peer, local)

    asyncio.get_running_loop().add_signal_handler(signal.SIGUSR1, forget)
    return await _enter(self)


if __name__ == "__main__":
    LocalHost.__aenter__ = _enter_and_listen  # type: ignore[method-assign]
    sys.exit(main())
