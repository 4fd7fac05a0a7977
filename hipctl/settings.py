"""What may be chosen about one host's associations; every limit of the engine stands here."""

from dataclasses import dataclass

from hipctl.constants import (
    CLOSE_RETRANSMIT_MAX,
    CLOSED_LIFETIME,
    GENERATION_LIFETIME,
    PUZZLE_K,
    PUZZLE_K_MAX,
    RETRANSMIT_INITIAL,
    RETRANSMIT_MAX,
    UNANSWERED_LIFETIME,
    UNUSED_LIFETIME,
    DhGroup,
    EspSuite,
    HipCipher,
)


@dataclass(frozen=True, slots=True, kw_only=True)
class EngineConfig:
    """Configuration of an Engine; times in seconds, rates a second.

    Attributes:
        groups: Diffie-Hellman groups, the preferred one first.
        ciphers: HIP ciphers, the preferred one first.
        esp_suites: ESP transforms, the preferred one first.
        k: difficulty of our puzzles, bits.
        k_max: the hardest puzzle that we solve for a peer, bits.
        udp: whether control packets travel in UDP: R1 and I2 then say NAT_TRAVERSAL_MODE 1.
        encrypt_host_id: whether our I2 hides who we are.
        keylog: whether KeyLog actions are made.
        retransmit_initial: before the first retransmission of I1, I2 and CLOSE; then it doubles.
        retransmit_max: transmissions of I1 and of I2 before E-FAILED.
        close_retransmit_max: transmissions of CLOSE before we forget the association anyway.
        closed_lifetime: how long CLOSED answers repeated CLOSEs.
        unused_lifetime: an association that nobody uses for so long is closed.
        unanswered_lifetime: when we send for so long and hear nothing, the peer may have
            restarted: a new base exchange finds out.
        generation_lifetime: how long one R1 generation (its DH keys too) is offered; solutions
            are accepted once as long again.
        first_generation: the first R1_COUNTER; the Unix time lets it grow over restarts.
        r1_rate: R1s to one address (IPv4 address or IPv6 /64) in the long run.
        r1_burst: R1s to one address at once.
        r1_addresses: addresses that the limit remembers.
        notify_rate: NOTIFYs in all; ``notify_burst`` at once.
        notify_burst: see ``notify_rate``.
        spent_solutions: solutions remembered a generation before the next one begins.
        max_associations: beyond, the one least recently heard is closed.
        max_exchanges: base exchanges that we initiate at a time.
        max_contacts: peers whose addresses are remembered.
        queue_datagrams: datagrams that wait for one peer's exchange.
        queue_bytes: their bytes.
    """

    groups: tuple[int, ...] = (DhGroup.NIST_P256, DhGroup.NIST_P384)
    ciphers: tuple[int, ...] = (HipCipher.AES_128_CBC, HipCipher.AES_256_CBC)
    esp_suites: tuple[int, ...] = (
        EspSuite.AES_GCM_16,
        EspSuite.AES_256_CBC_HMAC_SHA_256,
        EspSuite.AES_128_CBC_HMAC_SHA_256,
    )
    k: int = PUZZLE_K
    k_max: int = PUZZLE_K_MAX
    udp: bool = True
    encrypt_host_id: bool = True
    keylog: bool = False
    retransmit_initial: float = RETRANSMIT_INITIAL
    retransmit_max: int = RETRANSMIT_MAX
    close_retransmit_max: int = CLOSE_RETRANSMIT_MAX
    closed_lifetime: float = CLOSED_LIFETIME
    unused_lifetime: float = UNUSED_LIFETIME
    unanswered_lifetime: float = UNANSWERED_LIFETIME
    generation_lifetime: float = GENERATION_LIFETIME
    first_generation: int = 1
    r1_rate: float = 16.0
    r1_burst: int = 128
    r1_addresses: int = 4096
    notify_rate: float = 2.0
    notify_burst: int = 8
    spent_solutions: int = 32_768
    max_associations: int = 4096
    max_exchanges: int = 512
    max_contacts: int = 16_384
    queue_datagrams: int = 128
    queue_bytes: int = 262_144
