"""The process in which pjsua2 runs: commands as JSON lines come in, events as JSON lines go out.

Started by ``sipgw.demo.library``; its argument is one JSON object: ``aor``, ``proxy``
(``host:port`` or null), ``microphone`` and ``recording`` (WAV files).
"""

import json
import os
import select
import sys
from typing import Any

import pjsua2 as pj

POLL = 10  # ms
_CONFIRMED, _DISCONNECTED = 5, 6  # pjsip_inv_state
_STATES = {_CONFIRMED: "confirmed", _DISCONNECTED: "disconnected"}
_kept: list[Any] = []  # pjsua2 deletes in C++ what Python forgets


def emit(event: str, **values: Any) -> None:
    """Print one event."""
    print(json.dumps({"event": event, **values}), flush=True)


class Call(pj.Call):  # type: ignore[misc]
    """One call: plays the microphone file and records what is heard."""

    def __init__(self, account: Any, files: dict[str, str], call_id: int | None = None) -> None:
        if call_id is None:
            super().__init__(account)
        else:
            super().__init__(account, call_id)
        self._files = files
        self._media: list[Any] = []

    def onCallState(self, _: Any) -> None:  # noqa: N802
        """Tell how far it is."""
        info = self.getInfo()
        emit(
            "call",
            state=_STATES.get(info.state, ""),
            status=info.lastStatusCode,
            reason=info.lastReason,
        )

    def onCallMediaState(self, _: Any) -> None:  # noqa: N802
        """Join the files to the call as soon as it has audio."""
        info = self.getInfo()  # its vector must not outlive it
        for media in info.media:
            active = media.status == pj.PJSUA_CALL_MEDIA_ACTIVE
            if media.type == pj.PJMEDIA_TYPE_AUDIO and active and not self._media:
                audio = self.getAudioMedia(media.index)
                player, recorder = pj.AudioMediaPlayer(), pj.AudioMediaRecorder()
                player.createPlayer(self._files["microphone"], pj.PJMEDIA_FILE_NO_LOOP)
                recorder.createRecorder(self._files["recording"])
                player.startTransmit(audio)
                audio.startTransmit(recorder)
                self._media += [player, recorder]


class Account(pj.Account):  # type: ignore[misc]
    """The account: answers every call, prints every text."""

    def __init__(self, files: dict[str, str]) -> None:
        super().__init__()
        self._files = files

    def onRegState(self, prm: Any) -> None:  # noqa: N802
        """Tell how the registration went."""
        emit("registration", status=prm.code, reason=prm.reason)

    def onIncomingCall(self, prm: Any) -> None:  # noqa: N802
        """Ring, and answer at once."""
        call = Call(self, self._files, prm.callId)
        _kept.append(call)
        for status in (180, 200):
            answer = pj.CallOpParam()
            answer.statusCode = status
            call.answer(answer)

    def onInstantMessage(self, prm: Any) -> None:  # noqa: N802
        """Tell about a text."""
        emit("message", sender=prm.fromUri, text=prm.msgBody)


def obey(account: Account, files: dict[str, str], command: dict[str, str]) -> None:
    """Carry out one command: ``dial``, ``hangup`` or ``message``."""
    match command["command"]:
        case "dial":
            call = Call(account, files)
            _kept.append(call)
            call.makeCall(command["uri"], pj.CallOpParam(True))
        case "hangup":
            pj.Endpoint.instance().hangupAllCalls()
        case "message":
            buddy, config, text = pj.Buddy(), pj.BuddyConfig(), pj.SendInstantMessageParam()
            config.uri = command["uri"]
            config.subscribe = False
            text.content = command["text"]
            buddy.create(account, config)
            buddy.sendInstantMessage(text)
            _kept.append(buddy)


def start(endpoint: Any) -> None:
    """Start the library: one thread, no sound device, PCMU only."""
    config = pj.EpConfig()
    config.uaConfig.threadCnt = 0
    config.uaConfig.userAgent = "pjsua2"
    config.logConfig.level = config.logConfig.consoleLevel = 3
    config.medConfig.clockRate = config.medConfig.sndClockRate = 8_000
    config.medConfig.ecTailLen = 0
    config.medConfig.noVad = True
    endpoint.libCreate()
    endpoint.libInit(config)
    transport = pj.TransportConfig()
    transport.port = 0
    transport.boundAddress = "127.0.0.1"
    endpoint.transportCreate(pj.PJSIP_TRANSPORT_UDP, transport)
    endpoint.libStart()
    endpoint.audDevManager().setNullDev()
    for codec in endpoint.codecEnum2():
        endpoint.codecSetPriority(codec.codecId, 255 if codec.codecId.startswith("PCMU") else 0)


def main() -> None:
    """Run until standard input ends."""
    options = json.loads(sys.argv[1])
    endpoint = pj.Endpoint()
    start(endpoint)
    account, config = Account(options), pj.AccountConfig()
    config.idUri = options["aor"]
    config.mediaConfig.transportConfig.boundAddress = "127.0.0.1"
    if options["proxy"]:
        config.regConfig.registrarUri = f"sip:{options['proxy']}"
        config.regConfig.timeoutSec = 60
        config.sipConfig.proxies.append(f"sip:{options['proxy']};lr")
        config.natConfig.sipOutboundUse = False
    account.create(config)
    emit("ready")
    rest = ""
    while True:
        endpoint.libHandleEvents(POLL)
        if not select.select([sys.stdin], [], [], 0)[0]:
            continue
        piece = os.read(sys.stdin.fileno(), 65_536).decode()
        if not piece:
            break
        *lines, rest = (rest + piece).split("\n")
        for line in lines:
            obey(account, options, json.loads(line))
    endpoint.hangupAllCalls()
    endpoint.libDestroy()


if __name__ == "__main__":
    main()
