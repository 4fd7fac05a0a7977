"""What may be chosen about one host's associations; every limit of the engine stands here."""

from dataclasses import dataclass

from hipctl.constants import (
    CLOSE_RETRANSMIT_MAX,
    CLOSED_LIFETIME,
    GENERATION_LIFETIME,
    IDLE_LIFETIME,
    KEEPALIVE,
    KEPT_MAX,
    OLD_SA_LIFETIME,
    PACING,
    PUZZLE_K,
    PUZZLE_K_BUSY,
    PUZZLE_K_MAX,
    REGISTRATION_LIFETIME,
    REKEY_LIFETIME,
    REKEY_PACKETS,
    RETRANSMIT_INITIAL,
    RETRANSMIT_MAX,
    SILENCE,
    UNANSWERED_LIFETIME,
    UNUSED_LIFETIME,
    UPDATE_RETRANSMIT_MAX,
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
        k: difficulty of our puzzles when little is asked of us, bits.
        k_busy: the hardest that they get with load; never above k_max.
        calm_load: full looks at strangers' I2s a second (or 32 times as many R1s) up to which
            puzzles stay as they are; with each doubling they get one bit harder.
        k_max: the hardest puzzle that we solve for a peer, bits.
        udp: whether control packets travel in UDP: R1 and I2 then say NAT_TRAVERSAL_MODE.
        ice: whether exchanges that come through a relay go on with connectivity checks.
        keepalive: seconds without traffic after which a NAT is to be reminded of what it lets
            through; not less than 15 (RFC 9028 §4.10).
        kept: idle associations across NATs that are kept open so, the last used ones; calls and
            servers that we are registered with are anyway.
        idle_lifetime: other associations across NATs are closed after so many seconds.
        pacing: least seconds between two of them, Min Ta.
        encrypt_host_id: whether our I2 hides who we are.
        keylog: whether KeyLog actions are made.
        opportunistic_responder: whether the default identity answers I1s without receiver.
        opportunistic_initiator: whether ``connect_opportunistic`` may be used.
        retransmit_initial: before the first retransmission of I1, I2 and CLOSE; then it doubles.
        retransmit_max: transmissions of I1 and of I2 before E-FAILED.
        close_retransmit_max: transmissions of CLOSE before we forget the association anyway.
        closed_lifetime: how long CLOSED answers repeated CLOSEs.
        unused_lifetime: an association that nobody uses for so long is closed.
        unanswered_lifetime: when we send for so long and hear nothing, the peer may have
            restarted: a new base exchange finds out.
        update_retransmit_max: transmissions of an UPDATE before the association is in doubt.
        rekey_packets: packets under one SA before new keys are drawn.
        rekey_lifetime: the same by time, for SAs that are used; jittered.
        rekey_dh: whether a rekey of ours brings a new Diffie-Hellman key.
        old_sa_lifetime: how long an old inbound SA opens what is late.
        silence: when a call has heard nothing for so long, it looks for another path.
        generation_lifetime: how long one R1 generation (its DH keys too) is offered; solutions
            are accepted once as long again.
        first_generation: the first R1_COUNTER; the Unix time lets it grow over restarts.
        r1_rate: R1s to one address (IPv4 address or IPv6 /64) in the long run.
        r1_burst: R1s to one address at once.
        lan_rate: R1s to all who ask link-local groups, in the long run.
        lan_burst: the same at once.
        r1_addresses: addresses that the limit remembers.
        bad_i2_rate: I2s of one network (as for R1s) that may fail in the long run; beyond, all of
            its I2s are dropped before anything dear is done.
        bad_i2_burst: I2s of one network that may fail at once.
        notify_rate: NOTIFYs in all; ``notify_burst`` at once.
        notify_burst: see ``notify_rate``.
        spent_solutions: solutions remembered a generation before the next one begins.
        max_associations: beyond, the one least recently heard is closed.
        max_exchanges: base exchanges that we initiate at a time.
        max_contacts: peers whose addresses are remembered.
        registration_lifetime: seconds that we register for, where the server grants them.
        relayed_i1_rate: I1s of one network (as for R1s) to clients of ours in the long run.
        relayed_i1_burst: the same at once.
        relayed_rate: other control packets of one network to clients of ours in the long run,
            but for those of peers that the clients have named.
        relayed_burst: the same at once.
        to_client_rate: I1s to one client of ours, of all networks that send it few, in the long
            run; so many of those that send many; and so many other packets of those to whom it
            has spoken.
        to_client_burst: the same at once.
        unasked_rate: control packets that one client of ours has us send to addresses that have
            not spoken to it through us, and that it has not named, in the long run; so many are
            sent to it, but for I1s, by those to whom it has not spoken.
        unasked_burst: the same at once.
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
    k_busy: int = PUZZLE_K_BUSY
    calm_load: float = 128.0
    k_max: int = PUZZLE_K_MAX
    udp: bool = True
    ice: bool = True
    pacing: float = PACING
    keepalive: float = KEEPALIVE
    kept: int = KEPT_MAX
    idle_lifetime: float = IDLE_LIFETIME
    encrypt_host_id: bool = True
    keylog: bool = False
    opportunistic_responder: bool = False
    opportunistic_initiator: bool = False
    retransmit_initial: float = RETRANSMIT_INITIAL
    retransmit_max: int = RETRANSMIT_MAX
    close_retransmit_max: int = CLOSE_RETRANSMIT_MAX
    closed_lifetime: float = CLOSED_LIFETIME
    unused_lifetime: float = UNUSED_LIFETIME
    unanswered_lifetime: float = UNANSWERED_LIFETIME
    update_retransmit_max: int = UPDATE_RETRANSMIT_MAX
    rekey_packets: int = REKEY_PACKETS
    rekey_lifetime: float = REKEY_LIFETIME
    rekey_dh: bool = True
    old_sa_lifetime: float = OLD_SA_LIFETIME
    silence: float = SILENCE
    generation_lifetime: float = GENERATION_LIFETIME
    first_generation: int = 1
    r1_rate: float = 16.0
    r1_burst: int = 128
    lan_rate: float = 16.0
    lan_burst: int = 64
    r1_addresses: int = 4096
    bad_i2_rate: float = 1.0
    bad_i2_burst: int = 16
    notify_rate: float = 2.0
    notify_burst: int = 8
    spent_solutions: int = 32_768
    max_associations: int = 4096
    max_exchanges: int = 512
    max_contacts: int = 16_384
    registration_lifetime: float = REGISTRATION_LIFETIME
    relayed_i1_rate: float = 16.0
    relayed_i1_burst: int = 128
    relayed_rate: float = 64.0
    relayed_burst: int = 512
    to_client_rate: float = 256.0
    to_client_burst: int = 1024
    unasked_rate: float = 32.0
    unasked_burst: int = 64
    queue_datagrams: int = 128
    queue_bytes: int = 262_144


@dataclass(frozen=True, slots=True, kw_only=True)
class CheckConfig:
    """How the connectivity checks of RFC 9028 run and conclude; times in seconds.

    Attributes:
        settle: how long a valid direct pair waits for a better one at most.
        patience: how long after the start we wait for a direct pair where a relayed one is valid.
        give_up: after so long without a valid pair the checks have failed; after twice as long
            without a nomination.
        rounds: pauses between looks for a direct pair; the last one is repeated.
        limit: transmissions of a check.
        limit_quick: of one along a pair on which something came through, which then gets a new
            check, and of one in a later look.
    """

    settle: float = 0.1
    patience: float = 0.4
    give_up: float = 10.0
    rounds: tuple[float, ...] = (2.0, 5.0, 15.0, 30.0, 60.0)
    limit: int = 4
    limit_quick: int = 2
