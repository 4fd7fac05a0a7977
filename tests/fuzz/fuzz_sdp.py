"""Any bytes as SDP: malformed with a reason, or a description that a relay can rewrite.

python tests/fuzz/fuzz_sdp.py -max_total_time=60
"""

from sipgw import rtp
from sipgw.errors import MalformedSdp
from sipgw.sdp import SessionDescription

SEEDS = [
    b"v=0\r\no=- 1 2 IN IP4 192.0.2.1\r\ns=-\r\nc=IN IP4 192.0.2.1\r\nt=0 0\r\na=ice-lite\r\n"
    b"m=audio 4000/2 RTP/AVP 0 8\r\na=rtcp:4001 IN IP4 192.0.2.1\r\na=rtcp-mux\r\na=sendonly\r\n"
    b"a=candidate:1 1 UDP 1 192.0.2.1 4000 typ host\r\n",
    b"v=0\no=a b c IN IP6 ::1\nm=video 0 RTP/SAVPF 96\nc=IN IP6 ::\n"
    b"m=image 5 udptl t38\na=inactive",
    b"v=0\r\nm=audio 4000 RTP/AVP 0\r\na=rtcp-mux\r",  # found: ends in half a line end
    # found: our own address in a line that was none of ours
    b"v=0\nk=a b c IN IP6 ::1\nm=video 0 RTP/SAVPF 96\nc=IN IP6 :2\nm=image 5 udptl t38\n",
    b"\x80\xc8\x00\x06" + bytes(24),
]
_PORTS = [(20000, 20001), None, (20002, 30000)]


def test_one_input(data: bytes) -> None:
    """Rewriting keeps the sections and is the same the second time."""
    rtp.kind(data)
    try:
        before = SessionDescription.parse(data)
    except MalformedSdp:
        return
    assert before.encode() == data
    for address in ("127.0.0.1", "::1"):
        body = before.rewrite(address, _PORTS)
        after = SessionDescription.parse(body)
        assert after.rewrite(address, _PORTS) == body
        assert [m.kind for m in after.media] == [m.kind for m in before.media]
        assert b"candidate:" not in body or b"candidate:" in data


if __name__ == "__main__":
    import sys

    import atheris

    atheris.instrument_all()
    atheris.Setup(sys.argv, test_one_input)
    atheris.Fuzz()
