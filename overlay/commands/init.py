"""``p2psip init``: a device identity, an account and a profile that works at once."""

import ipaddress
import os
import time
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Final

import typer

from overlay.commands.run import PROFILE_NAME, one_of, user_folder
from overlay.commands.terminal import JsonOption, emit, read_words
from overlay.contacts import replace_file, toml_string
from overlay.errors import ConfigError

if TYPE_CHECKING:
    from hipctl import HostIdentity
    from overlay.overlayfile import OverlayInfo

DEFAULT_DOMAIN: Final = "p2psip.internal"  # .internal is nobody's: a net of one's own
DEFAULT_LISTEN: Final = ("0.0.0.0:10500", "[::]:10500")
KEY_NAME: Final = "device.pem"
ACCOUNT_NAME: Final = "account.p2psip"
OVERLAY_NAME: Final = "overlay.toml"
ACCOUNT_FILE: Final = "my.account"  # what is shown of it to a CA

PROFILE: Final = """\
# A peer. All commands take the folder of this file as their --profile: p2psip run -p FOLDER
# Paths are relative to this file.

[peer]
state = "state"                 # what is stored for others, and the control socket
contacts = "contacts.toml"      # petnames and blocked AoRs: p2psip contact --help
policy = "contacts"             # who may ring

[host]
listen = {listen}  # HIP, the only port that others reach
{lan}private_addresses = {private}        # others may learn addresses of a LAN; needed inside one

[identity.device]
key = "{key}"              # who can read this file can be this device

[overlay.main]
identity = "device"
file = "{overlay}"           # which overlay; give a copy to whom you want in it
account = "{account}"        # public: who you are, signed for this device
seeds = {seeds}

[overlay.main.services.sip]
listen = {sip}       # where your SIP client registers, without a password
"""


LAN: Final = "lan = true                      # on this LAN others hear that somebody is here\n"


@dataclass(frozen=True, slots=True)
class Made:
    """What ``init`` made: files, names, and the words where the account is new.

    Attributes:
        enrolled: the overlay lets in only whom its CA has certified.
    """

    profile: Path
    device: str
    account: str
    aor: str
    domain: str
    words: str | None
    enrolled: bool = False

    def to_json(self) -> dict[str, str]:
        """JSON-ready."""
        value = {
            "profile": str(self.profile),
            "hit": self.device,
            "account": self.account,
            "aor": self.aor,
            "domain": self.domain,
        }
        return value if self.words is None else {**value, "words": self.words}


def command(
    folder: Annotated[
        Path | None,
        typer.Argument(
            help="Where to put it. Default: $P2PSIP_PROFILE, else the user's own.",
            show_default=False,
        ),
    ] = None,
    *,
    profile: Annotated[
        Path | None,
        typer.Option("--profile", "-p", help="The same, as for every other command."),
    ] = None,
    overlay: Annotated[
        Path | None,
        typer.Option(help="Overlay file to join; without it a new open overlay begins."),
    ] = None,
    domain: Annotated[str, typer.Option(help="SIP domain of the new overlay.")] = DEFAULT_DOMAIN,
    seed: Annotated[
        list[str] | None, typer.Option(help="HIT@host:port of a peer to join through; repeatable.")
    ] = None,
    words: Annotated[
        Path | None,
        typer.Option(help="File with the 24 words of an account you have; - for standard input."),
    ] = None,
    listen: Annotated[
        list[str] | None,
        typer.Option(
            help="address:port for HIP; repeatable. Default: 0.0.0.0:10500 and [::]:10500, and "
            "the peer follows this machine's addresses.",
            show_default=False,
        ),
    ] = None,
    sip: Annotated[str, typer.Option(help="address:port for the SIP client.")] = "127.0.0.1:5060",
    private: Annotated[
        bool, typer.Option(help="Let others learn addresses of a LAN (needed inside one).")
    ] = True,
    lan: Annotated[
        bool,
        typer.Option("--lan", help="Answer on the LAN who is there, and look there for others."),
    ] = False,
    as_json: JsonOption = False,
) -> None:
    """Make an identity for this device, an account, and a profile that works at once.

    The account's 24 words are shown once and kept nowhere: write them down.

    Example: p2psip init --overlay family.toml
    """
    made = make(
        chosen_folder(one_of(folder, profile)),
        overlay=overlay,
        domain=domain,
        seeds=tuple(seed or ()),
        words=None if words is None else read_words(words),
        listen=tuple(listen or DEFAULT_LISTEN),
        sip=sip,
        private=private,
        lan=lan,
    )
    emit(made.to_json(), lines_of(made, sip), as_json=as_json)


def check_free(folder: Path) -> None:
    """Refuse a folder in which there is a profile, or a part of one.

    Raises:
        ConfigError: there is.
    """
    for name in (PROFILE_NAME, KEY_NAME, ACCOUNT_NAME, OVERLAY_NAME):
        if (folder / name).exists():
            raise ConfigError(f"{folder / name} exists; choose another folder or remove it")


def chosen_folder(given: Path | None) -> Path:
    """The folder that is meant; its profile may be named in its place."""
    if given is None:
        named = os.environ.get("P2PSIP_PROFILE")
        given = Path(named) if named else user_folder()
    if given.name == PROFILE_NAME:
        return given.parent
    if given.suffix == ".toml":
        raise ConfigError(f"{given}: init makes a folder, and in it {PROFILE_NAME}; name that")
    return given


def make(
    folder: Path,
    *,
    overlay: Path | None,
    domain: str,
    seeds: tuple[str, ...],
    words: str | None,
    listen: tuple[str, ...],
    sip: str,
    private: bool,
    lan: bool = False,
    device: "HostIdentity | None" = None,
    info: "OverlayInfo | None" = None,
) -> Made:
    """Write everything; the profile last, so that a profile is never half made.

    Args:
        folder: where.
        overlay: file of the overlay to join; None: ``info``, or a new one of ``domain``.
        domain: of a new overlay.
        seeds: besides those of the overlay.
        words: of the account; None: a new one.
        listen: for HIP.
        sip: for the SIP client.
        private: others may learn addresses of a LAN.
        lan: answer on the LAN.
        device: its identity; None: a new one.
        info: an overlay that isn't in a file yet.

    Raises:
        ConfigError, CredentialsRefused, MalformedAor: what was given cannot be used.
    """
    from hipctl import HostIdentity
    from overlay.accounts import AccountKey, self_certifying_aor
    from overlay.admission import Account, save_account
    from overlay.config import parse_address
    from overlay.constants import DELEGATION_LIFE
    from overlay.overlayfile import found_overlay, load_overlay, parse_seed, save_overlay

    check_free(folder)
    for option, text in (*(("--listen", text) for text in listen), ("--sip", sip)):
        if not _is_ip(parse_address(text)):
            raise ConfigError(f"{option} {text}: is no address:port, such as 127.0.0.1:5060")
    for text in seeds:
        try:
            parse_seed(text)
        except ValueError as error:
            raise ConfigError(f"--seed {text}: {error}") from None
    if info is None:
        info = load_overlay(overlay) if overlay else found_overlay(domain, rng=os.urandom)
    if words is None:
        account, words_to_show = AccountKey.generate(os.urandom)
    else:
        account, words_to_show = AccountKey.from_words(words), None
    folder.mkdir(mode=0o700, parents=True, exist_ok=True)
    device = device or HostIdentity.generate()
    device.save(folder / KEY_NAME)
    now = time.time()
    delegation = account.delegate(device.hit, int(now) + DELEGATION_LIFE, int(now * 1000))
    save_account(Account((delegation,)), folder / ACCOUNT_NAME)
    save_overlay(info, folder / OVERLAY_NAME)
    text = PROFILE.format(
        key=KEY_NAME,
        account=ACCOUNT_NAME,
        overlay=OVERLAY_NAME,
        listen="[" + ", ".join(map(toml_string, listen)) + "]",
        private="true" if private else "false",
        lan=LAN if lan else "",
        seeds="[" + ", ".join(map(toml_string, seeds)) + "]",
        sip=toml_string(sip),
    )
    replace_file(folder / PROFILE_NAME, text)
    return Made(
        profile=folder / PROFILE_NAME,
        device=str(device.hit),
        account=str(account.hit),
        aor=self_certifying_aor(account.hit, info.domain),
        domain=info.domain,
        words=words_to_show,
        enrolled=info.admission == "enrolled",
    )


def _is_ip(address: tuple[str, int] | None) -> bool:
    """Whether it is an address that can be listened at: one that isn't a name."""
    try:
        return address is not None and bool(ipaddress.ip_address(address[0]))
    except ValueError:
        return False


def lines_of(made: Made, sip: str) -> list[str]:
    """What a person has to know of it."""
    from overlay.accounts import words_in_rows

    lines = [
        f"profile  {made.profile}",
        f"device   {made.device}",
        f"account  {made.account}",
        f"your AoR {made.aor}",
        "",
    ]
    if made.words is not None:
        lines += [
            "These 24 words are your account. They are shown once and kept nowhere; write them",
            "down: with them you come back on another device, without them you don't.",
            "",
            *(f"  {row}" for row in words_in_rows(made.words)),
            "",
        ]
    folder = made.profile.parent
    if made.enrolled:
        return [
            *lines,
            f"Next: p2psip account export -p {folder} > {ACCOUNT_FILE}",
            "Give that to the overlay's CA, which answers with a certificate. When you have it:",
            f"      p2psip account add-certificate CERTIFICATE -p {folder}",
            f"      p2psip run {folder}",
            f"Then let your SIP client register the certified name at {sip} (UDP, no password).",
        ]
    return [
        *lines,
        f"Next: p2psip run {folder}",
        f"Then let your SIP client register {made.aor} at {sip} (UDP, no password).",
    ]
