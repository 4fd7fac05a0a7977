"""A SIP client inside a namespace, and a tap on its loopback: run by ``handover`` with ip netns.

    python -m net.lab_client '{"aor": …, "proxy": …, "friend": …, "folder": …, "microphone": …}'

Reads ``call URI``, ``answered``, ``hangup`` and ``stop``, a line each, and answers each with a
line of JSON; the last one holds when which RTP packet crossed the loopback.
"""

import asyncio
import json
import signal
import socket
import struct
import sys
import time
from pathlib import Path
from typing import Any

from sipgw.demo.baresip import Baresip
from sipgw.demo.clients import Account
from sipgw.demo.process import StepFailed

ETH_P_ALL = 3
SO_TIMESTAMPNS = 35
IP_HEADER, UDP = 20, 17
SOON = 15.0

_Crossing = tuple[float, int]  # monotonic seconds, RTP sequence number


class LoopbackTap:
    """Notes every RTP packet on the namespace's loopback.

    Attributes:
        streams: SSRC -> its packets, in the order in which they came by.
    """

    def __init__(self) -> None:
        self.streams: dict[int, list[_Crossing]] = {}
        self._socket = socket.socket(socket.AF_PACKET, socket.SOCK_DGRAM, socket.htons(ETH_P_ALL))
        self._socket.bind(("lo", ETH_P_ALL))
        self._socket.setsockopt(socket.SOL_SOCKET, SO_TIMESTAMPNS, 1)  # not when we get to it
        self._socket.setblocking(False)
        self._offset = time.time() - time.monotonic()
        asyncio.get_running_loop().add_reader(self._socket, self._on_readable)

    def _on_readable(self) -> None:
        while True:
            try:
                data, ancillary, _, where = self._socket.recvmsg(2_048, 64)
            except BlockingIOError:
                return
            if where[2] != socket.PACKET_OUTGOING and data[:1] == b"\x45" and data[9] == UDP:
                seconds, nanoseconds = struct.unpack("qq", ancillary[0][2])
                at = seconds + nanoseconds / 1e9 - self._offset
                self._on_udp(data[IP_HEADER + 8 :], at)

    def _on_udp(self, rtp: bytes, at: float) -> None:
        if len(rtp) < 12 + 80 or rtp[0] != 0x80 or rtp[1] & 0x7F != 0:  # PCMU
            return
        stream = self.streams.setdefault(int.from_bytes(rtp[8:12], "big"), [])
        stream.append((at, int.from_bytes(rtp[2:4], "big")))

    def close(self) -> None:
        asyncio.get_running_loop().remove_reader(self._socket)
        self._socket.close()


def say(**what: Any) -> None:
    print(json.dumps(what), flush=True)  # noqa: T201


async def obey(client: Baresip, command: str, argument: str) -> None:
    match command:
        case "call":
            await client.call(argument, SOON)
        case "answered":
            await client.answered(SOON)
        case "hangup":
            await client.hang_up()
            await client.ended(SOON)
        case "ended":
            await client.ended(SOON)
        case "heard":
            say(done=command, heard=str(client.heard()))
            return
    say(done=command)


async def main() -> None:
    given = json.loads(sys.argv[1])
    account = Account(given["aor"], tuple(given["proxy"]), given["friend"])
    client = Baresip(account, Path(given["folder"]), Path(given["microphone"]))
    tap = LoopbackTap()
    lines = asyncio.StreamReader()
    loop = asyncio.get_running_loop()
    await loop.connect_read_pipe(lambda: asyncio.StreamReaderProtocol(lines), sys.stdin)
    loop.add_signal_handler(signal.SIGTERM, lines.feed_eof)  # the client would outlive us
    try:
        await client.start()
        await client.registered(SOON)
        say(done="start")
        async for line in lines:
            command, _, argument = line.decode().strip().partition(" ")
            if command == "stop":
                break
            await obey(client, command, argument)
    except StepFailed as error:
        say(failed=str(error), log=client.tail())
    finally:
        await client.stop()
        tap.close()
    heard = str(client.heard())
    say(done="stop", heard=heard, streams={str(k): v for k, v in tap.streams.items()})


if __name__ == "__main__":
    asyncio.run(main())
