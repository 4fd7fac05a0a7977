"""``p2psip account``: who you are, on which devices, under which names."""

import contextlib
import ssl
import time
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from overlay.commands.joined import pick
from overlay.commands.run import profile_path
from overlay.commands.terminal import (
    JsonOption,
    ProfileOption,
    emit,
    read_words,
)
from overlay.errors import ConfigError

if TYPE_CHECKING:
    from hipctl import Hit
    from overlay.accounts import Delegation
    from overlay.admission import Account
    from overlay.config import JoinedOverlay, Profile

app = typer.Typer(help="Who you are: your account, its devices and names.")

OverlayOption = Annotated[
    str, typer.Option("--overlay", help="Name in the profile; needed when it has several.")
]
WordsOption = Annotated[
    Path | None, typer.Option("--words", help="File with the 24 words; default: ask, or stdin.")
]
MAX_CERTIFICATE_FILE = 65_536  # bytes
TAKEN_UP = "if the peer runs, it takes that up within seconds"
RESTART = "restart the peer"


@app.command()
def show(
    overlay: OverlayOption = "", profile: ProfileOption = None, as_json: JsonOption = False
) -> None:
    """Show the account: its HIT, its names, its devices.

    Example: p2psip account show
    """
    from overlay.accounts import self_certifying_aor

    loaded, joined = pick(profile_path(profile), overlay)
    account, device = _account(joined), _device(loaded, joined)
    names = account.names(joined.info, time.time())
    own = self_certifying_aor(account.hit, joined.info.domain)
    value: dict[str, Any] = {
        "account": str(account.hit),
        "aor": own,
        "aors": sorted(names),
        "device": str(device),
        "devices": [
            {"hit": str(d.device), "not_after": d.not_after, "seq": d.seq}
            for d in account.delegations
        ],
    }
    lines = [f"account {account.hit}"]
    lines += [f"name    {aor}" for aor in sorted(names, key=lambda aor: (aor == own, aor))]
    lines += [
        f"device  {d.device} until {_day(d.not_after)}{' (this one)' * (d.device == device)}"
        for d in account.delegations
    ]
    emit(value, lines, as_json=as_json)


@app.command()
def export(overlay: OverlayOption = "", profile: ProfileOption = None) -> None:
    """Print the account file, which is public: a CA needs it to certify a name.

    Example: p2psip account export > alice.toml
    """
    from overlay.admission import format_account

    _, joined = pick(profile_path(profile), overlay)
    print(format_account(_account(joined)), end="")


@app.command()
def restore(
    words: WordsOption = None,
    replace: Annotated[
        bool, typer.Option("--replace", help="Give up the account that is there now.")
    ] = False,
    overlay: OverlayOption = "",
    profile: ProfileOption = None,
    as_json: JsonOption = False,
) -> None:
    """Take up an account with its 24 words, on this device; or renew its delegation.

    Example: p2psip account restore < words.txt
    """
    from overlay.accounts import AccountKey
    from overlay.admission import Account

    loaded, joined = pick(profile_path(profile), overlay, new_account=True)
    device, path = _device(loaded, joined), _account_path(joined)
    key = AccountKey.from_words(read_words(words))
    old = joined.account
    if old is not None and old.hit != key.hit and not replace:
        raise ConfigError(
            f"these are the words of {key.hit}, but the profile has the account {old.hit}; "
            "add --replace to give that one up"
        )
    delegation = _delegate(key.delegate, device)
    kept = old if old is not None and old.hit == key.hit else Account(())
    _save(kept, [delegation], (), path)
    emit(
        {"account": str(key.hit), "device": str(device), "not_after": delegation.not_after},
        [f"account {key.hit} on this device until {_day(delegation.not_after)}"],
        as_json=as_json,
    )


@app.command()
def delegate(
    device: Annotated[str, typer.Argument(help="HIT of the other device", show_default=False)],
    *,
    out: Annotated[Path, typer.Option(help="File for the other device.")] = Path("device.toml"),
    words: WordsOption = None,
    overlay: OverlayOption = "",
    profile: ProfileOption = None,
    as_json: JsonOption = False,
) -> None:
    """Let another device speak for the account; asks for the 24 words.

    Example: p2psip account delegate 2001:2f::42 --out tablet.toml < words.txt
    """
    from hipctl import Hit
    from overlay.accounts import AccountKey

    try:
        hit = Hit.parse(device)
    except ValueError as error:
        raise ConfigError(f"{device} is no HIT: {error}; see: p2psip account show") from None
    _, joined = pick(profile_path(profile), overlay)
    account = _account(joined)
    if out.exists():
        raise ConfigError(f"{out} exists; choose another name with --out")
    key = AccountKey.from_words(read_words(words))
    if key.hit != account.hit:
        raise ConfigError(f"these are the words of {key.hit}; the profile's is {account.hit}")
    delegation = _delegate(key.delegate, hit)
    _save(account, [delegation], (), _account_path(joined))
    _save(account, [delegation], (), out)
    emit(
        {"account": str(key.hit), "device": str(hit), "file": str(out)},
        [f"{out}; on the other device type: p2psip account import {out.name}"],
        as_json=as_json,
    )


@app.command("import")
def import_(
    file: Annotated[Path, typer.Argument(help="Account file", show_default=False)],
    replace: Annotated[
        bool, typer.Option("--replace", help="Give up the account that is there now.")
    ] = False,
    overlay: OverlayOption = "",
    profile: ProfileOption = None,
    as_json: JsonOption = False,
) -> None:
    """Take up what another device delegated to this one.

    Example: p2psip account import tablet.toml
    """
    from overlay.admission import Account, load_account

    loaded, joined = pick(profile_path(profile), overlay, new_account=True)
    device, found, old = _device(loaded, joined), load_account(file), joined.account
    if not any(d.device == device and d.verify() for d in found.delegations):
        raise ConfigError(f"{file} holds no delegation for this device, {device}")
    if old is not None and old.hit != found.hit and not replace:
        raise ConfigError(
            f"{file} is of {found.hit}, but the profile has the account {old.hit}; "
            "add --replace to give that one up"
        )
    kept = old if old is not None and old.hit == found.hit else Account(())
    _save(kept, found.delegations, found.certificates, _account_path(joined))
    emit(
        {"account": str(found.hit), "device": str(device)},
        [f"account {found.hit} on this device; {TAKEN_UP if kept is old else RESTART}"],
        as_json=as_json,
    )


@app.command("add-certificate")
def add_certificate(
    file: Annotated[Path, typer.Argument(help="PEM file from the CA", show_default=False)],
    overlay: OverlayOption = "",
    profile: ProfileOption = None,
    as_json: JsonOption = False,
) -> None:
    """Install a name's certificate, which the overlay's CA issued.

    Example: p2psip account add-certificate alice.cert.pem
    """
    from hipctl import MalformedPacket, Rejected
    from overlay.proofs import certified

    _, joined = pick(profile_path(profile), overlay)
    account = _account(joined)
    with file.open(encoding="ascii", errors="replace") as opened:
        text = opened.read(MAX_CERTIFICATE_FILE)
    try:
        der = ssl.PEM_cert_to_DER_cert(text)
        found = certified(der, joined.info, time.time())
    except (ValueError, MalformedPacket, Rejected) as error:
        raise ConfigError(
            f"{file}: no certificate of {joined.info.domain}'s CA: {error}"
        ) from None
    if found.account.hit != account.hit:
        raise ConfigError(f"{file}: certifies {found.account.hit}; this account is {account.hit}")
    _save(account, (), (der,), _account_path(joined))
    emit(
        {"aors": list(found.aors), "not_after": found.not_after},
        [f"{' '.join(found.aors)} until {_day(found.not_after)}; {TAKEN_UP}"],
        as_json=as_json,
    )


def _account(joined: "JoinedOverlay") -> "Account":
    if joined.account is None:
        raise ConfigError(
            f"overlay.{joined.name}.account: the profile names no account file; add the line "
            'account = "account.p2psip" and type: p2psip account restore'
        )
    return joined.account


def _account_path(joined: "JoinedOverlay") -> Path:
    if joined.table.account is None:
        raise ConfigError(f'overlay.{joined.name}: add the line account = "account.p2psip" first')
    return joined.table.account


def _device(loaded: "Profile", joined: "JoinedOverlay") -> "Hit":
    from hipctl import HostIdentity

    return HostIdentity.load(loaded.identities[joined.table.identity].key).hit


def _delegate(sign: Any, device: "Hit") -> "Delegation":
    from overlay.constants import DELEGATION_LIFE

    now = time.time()
    made: Delegation = sign(device, int(now) + DELEGATION_LIFE, int(now * 1000))
    return made


def _save(
    account: "Account",
    delegations: "Sequence[Delegation]",
    certificates: Sequence[bytes],
    path: Path,
) -> None:
    """Write an account with more in it; of a device's delegations only the newest stays.

    Those of other devices that have ended go, too: the file has room for so many only.
    """
    from overlay.textfile import locked

    with contextlib.ExitStack() as stack:
        try:
            stack.enter_context(locked(path))
        except OSError as error:
            raise ConfigError(f"{path}: cannot be written: {error.strerror}") from None
        _save_alone(account, delegations, certificates, path)


def _save_alone(
    account: "Account",
    delegations: "Sequence[Delegation]",
    certificates: Sequence[bytes],
    path: Path,
) -> None:
    from overlay.admission import Account, load_account, save_account

    if account.delegations and path.exists():
        there = load_account(path)  # another command may have added to it since we looked
        account = there if there.hit == account.hit else account
    now = time.time()
    held = [d for d in account.delegations if d.not_after > now]
    newest = {d.device: d for d in sorted((*held, *delegations), key=lambda d: d.seq)} or {
        d.device: d for d in account.delegations
    }
    ders = tuple(dict.fromkeys((*account.certificates, *certificates)))
    save_account(Account(tuple(newest.values()), ders), path)


def _day(unix: int) -> str:
    return time.strftime("%Y-%m-%d", time.gmtime(unix))
