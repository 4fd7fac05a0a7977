"""The process in which baresip-python runs: commands as JSON lines in, events as JSON lines out.

Started by ``sipgw.demo.library``; its argument is one JSON object: ``aor``, ``proxy``
(``host:port`` or null), ``microphone`` and ``recording`` (WAV files, paths of at most 127 bytes).
"""

import asyncio
import json
import sys
from typing import Any

import baresip
from baresip.call import Call
from baresip.runtime import Runtime
from baresip.ua import UserAgent


def emit(event: str, **values: Any) -> None:
    """Print one event."""
    print(json.dumps({"event": event, **values}), flush=True)


class Phone:
    """The one user agent of this process."""

    def __init__(self, agent: Any) -> None:
        self._agent = agent
        self._calls: list[Any] = []
        self._tasks: set[asyncio.Task[None]] = set()
        agent.on_incoming(self._on_incoming)

    def _on_incoming(self, call: Any) -> None:
        self._watch(call)
        self.do(call.answer())

    def _watch(self, call: Any) -> None:
        self._calls.append(call)
        call.on(self._on_event)

    def _on_event(self, event: Any) -> None:
        if event.event is baresip.Event.CALL_ESTABLISHED:
            emit("call", state="confirmed", status=200, reason="")
        elif event.event is baresip.Event.CALL_CLOSED:
            status, _, reason = (event.text or "").partition(" ")
            number = int(status) if status.isdigit() else 0
            emit("call", state="disconnected", status=number, reason=reason)

    def do(self, work: Any) -> None:
        """Carry something out behind."""
        task = asyncio.ensure_future(work)
        self._tasks.add(task)
        task.add_done_callback(self._tasks.discard)

    async def dial(self, uri: str) -> None:
        """Call somebody; how it goes is told as events."""
        call: Call = await self._agent.dial(uri)
        self._watch(call)

    async def hang_up(self) -> None:
        """End all calls."""
        while self._calls:
            try:
                await self._calls.pop().hangup()
            except baresip.StaleHandleError:
                continue  # it is over already

    async def register(self) -> None:
        """Register, and tell how it went."""
        try:
            await self._agent.register()
        except baresip.RegistrationError as error:
            emit("registration", status=error.status or 0, reason=str(error))
        else:
            emit("registration", status=200, reason="OK")


async def main() -> None:
    """Run until standard input ends."""
    options = json.loads(sys.argv[1])
    user, _, domain = options["aor"].removeprefix("sip:").partition("@")
    config = baresip.Config(
        net_interface="127.0.0.1",
        audio_source=f"aufile,{options['microphone']}",
        audio_player=f"aufile,{options['recording']}",
    )
    account = baresip.Account(
        user=user,
        domain=domain,
        password="unused",  # noqa: S106  the gateway asks for none
        registrar=options["proxy"],
        reg_interval=60 if options["proxy"] else 0,
        audio_codecs=("pcmu",),
    )
    runtime: Any = Runtime()
    await runtime.start(config)
    phone = Phone(await UserAgent.create(runtime, account))
    emit("ready")
    if options["proxy"]:
        await phone.register()
    reader = asyncio.StreamReader()
    loop = asyncio.get_running_loop()
    await loop.connect_read_pipe(lambda: asyncio.StreamReaderProtocol(reader), sys.stdin)
    async for line in reader:
        command = json.loads(line)
        match command["command"]:
            case "dial":
                phone.do(phone.dial(command["uri"]))
            case "hangup":
                await phone.hang_up()
    await runtime.close()


if __name__ == "__main__":
    asyncio.run(main())
