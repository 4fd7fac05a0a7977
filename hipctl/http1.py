"""One request and its reply by HTTP/1.1, on h11."""

from typing import Final

import h11

from hipctl.errors import MalformedPacket
from hipctl.mapped import Fetch

LONGEST_HEAD: Final = 16 * 1_024  # bytes of status line and header fields


class Exchange:
    """Bytes out, bytes in; for one connection.

    Attributes:
        request: what to send.
        status: of the reply, once its head is there; else 0.
        body: of the reply, as far as it is there.
        done: the reply is whole.
    """

    def __init__(self, fetch: Fetch, longest: int) -> None:
        """Write the request.

        Args:
            fetch: what to ask for.
            longest: bytes of the longest body that is read.
        """
        self._connection = h11.Connection(h11.CLIENT, max_incomplete_event_size=LONGEST_HEAD)
        self._longest = longest
        self.status = 0
        self.body = b""
        self.done = False
        self.request = self._write(fetch)

    def _write(self, fetch: Fetch) -> bytes:
        ip = fetch.url.host.partition("%")[0]
        headers = [
            ("Host", f"[{ip}]:{fetch.url.port}" if ":" in ip else f"{ip}:{fetch.url.port}"),
            ("Connection", "close"),
        ]
        if fetch.action:
            headers += [
                ("Content-Type", 'text/xml; charset="utf-8"'),
                ("Content-Length", str(len(fetch.body))),
                ("SOAPAction", f'"{fetch.action}"'),
            ]
        method = "POST" if fetch.action else "GET"
        head = h11.Request(method=method, target=fetch.url.path, headers=headers)
        written = [self._connection.send(head)]
        if fetch.body:
            written.append(self._connection.send(h11.Data(data=fetch.body)))
        written.append(self._connection.send(h11.EndOfMessage()))
        return b"".join(each for each in written if each)

    def feed(self, data: bytes) -> None:
        """Take what came; no bytes: nothing more will.

        Raises:
            MalformedPacket: it isn't HTTP, is too long, or has ended too early.
        """
        try:
            self._connection.receive_data(data)
            while not self.done:
                event = self._connection.next_event()
                if event is h11.NEED_DATA:
                    return
                self._take(event)
        except h11.RemoteProtocolError:
            raise MalformedPacket("no HTTP reply") from None

    def _take(self, event: object) -> None:
        match event:
            case h11.Response():
                self.status = event.status_code
            case h11.Data():
                self.body += bytes(event.data)
                if len(self.body) > self._longest:
                    raise MalformedPacket("HTTP reply too long", self._longest)
            case h11.EndOfMessage():
                self.done = True
            case h11.ConnectionClosed() | h11.PAUSED:
                raise MalformedPacket("HTTP reply cut short")
