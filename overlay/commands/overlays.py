"""``p2psip overlay`` and ``p2psip ca``: found an overlay, invite to it, certify its names."""

import os
import ssl
import time
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from overlay.commands.run import profile_path
from overlay.commands.terminal import JsonOption, ProfileOption, emit
from overlay.contacts import replace_file
from overlay.errors import ConfigError

if TYPE_CHECKING:
    from overlay.config import Profile
    from overlay.overlayfile import OverlayInfo, Seed

overlay_app = typer.Typer(help="Found an overlay, or invite others into yours.")
ca_app = typer.Typer(help="Certify names, with the key of an overlay's CA.")

DAY = 86_400  # seconds
CA_NAME = "ca.pem"
OVERLAY_NAME = "overlay.toml"


@overlay_app.command()
def new(
    domain: Annotated[str, typer.Argument(help="SIP domain: what stands behind the @")],
    *,
    folder: Annotated[Path, typer.Option(help="Where to put the files.")] = Path(),
    enrolled: Annotated[
        bool, typer.Option("--enrolled", help="Let in only whom the CA has certified.")
    ] = False,
    ca: Annotated[
        bool, typer.Option("--ca", help="Have a CA for names, but let everybody in.")
    ] = False,
    seed: Annotated[
        list[str] | None, typer.Option(help="HIT@host:port of a peer to join through; repeatable.")
    ] = None,
    as_json: JsonOption = False,
) -> None:
    """Found an overlay: write its file and, with --enrolled or --ca, the key of its CA.

    Example: p2psip overlay new example.org --enrolled --seed 2001:2f::1@192.0.2.1:10500
    """
    from hipctl import HostIdentity
    from overlay.overlayfile import certify_overlay, found_overlay, save_overlay

    target, key_file = folder / OVERLAY_NAME, folder / CA_NAME
    if target.exists():
        raise ConfigError(f"{target} exists; choose another folder or remove it")
    seeds = tuple(_seed(text) for text in seed or ())
    key = HostIdentity.generate() if enrolled or ca else None
    info = found_overlay(
        domain,
        ca=key.host_id if key else None,
        admission="enrolled" if enrolled else "open",
        seeds=seeds,
        rng=os.urandom,
    )
    if key:
        info = certify_overlay(info, key, time.time(), os.urandom)
    folder.mkdir(mode=0o700 if key else 0o777, parents=True, exist_ok=True)
    if key:
        key.save(key_file)
    save_overlay(info, target)
    value = {
        "overlay": str(target),
        "id": info.id.hex(),
        "domain": info.domain,
        "admission": info.admission,
        "ca_key": str(key_file) if key else None,
    }
    lines = [f"overlay {info.domain} ({info.admission}): {target}"]
    if key:
        lines.append(f"CA key: {key_file}; keep it away from the peers, and a copy of it")
    lines.append(f"Next: p2psip init --overlay {target}")
    emit(value, lines, as_json=as_json)


@overlay_app.command()
def invite(
    at: Annotated[
        str, typer.Option(help="address[:port] where others reach this peer: writes a file.")
    ] = "",
    *,
    lan: Annotated[
        bool,
        typer.Option("--lan", help="Make a token, with which others join on this peer's LAN."),
    ] = False,
    hours: Annotated[int, typer.Option(min=1, max=720, help="How long a token is good.")] = 24,
    out: Annotated[Path, typer.Option(help="The file to give away.")] = Path("invitation.toml"),
    overlay: Annotated[str, typer.Option(help="Its name in the profile.")] = "",
    profile: ProfileOption = None,
    as_json: JsonOption = False,
) -> None:
    """Invite somebody: by a file with this peer as a seed, or by a token for your LAN.

    Example: p2psip overlay invite --at 192.0.2.7 --out family.toml
    """
    if bool(at) is lan:
        raise ConfigError("say --at ADDRESS for a file, or --lan for a token")
    if lan:
        _invite_on_lan(hours, overlay, profile, as_json=as_json)
        return
    from dataclasses import replace

    from hipctl import HostIdentity
    from overlay.commands.joined import pick
    from overlay.overlayfile import parse_place, save_overlay

    loaded, joined = pick(profile_path(profile), overlay)
    hit = HostIdentity.load(loaded.identities[joined.table.identity].key).hit
    seed = _seed(f"{hit}@{at}")
    if parse_place(at)[1] is None:  # then it is the one that this peer listens on
        seed = seed._replace(port=parse_place(loaded.host.places[0])[1] or seed.port)
    if out.exists():
        raise ConfigError(f"{out} exists; choose another name with --out")
    others = tuple(s for s in joined.info.seeds if s.hit != hit)
    save_overlay(replace(joined.info, seeds=(seed, *others)), out)
    emit(
        {"overlay": str(out), "seed": str(seed)},
        [f"{out}; whoever gets it types: p2psip init --overlay {out.name}"],
        as_json=as_json,
    )


def _invite_on_lan(hours: int, overlay: str, profile: Path | None, *, as_json: bool) -> None:
    from overlay.commands.joined import pick
    from overlay.invitations import (
        INVITATIONS,
        Invitation,
        InvitationBook,
        make_token,
        read_token,
    )
    from overlay.lobby import TOO_LONG, fits

    loaded, joined = pick(profile_path(profile), overlay)
    if not loaded.host.lan:
        raise ConfigError(
            "this peer does not answer on its LAN: say lan = true in [host] of its profile, start "
            "it anew, and invite then"
        )
    if not fits(joined.info):
        raise ConfigError(
            f"{joined.table.file}: {TOO_LONG}; take seeds out of it, or pass on the file itself: "
            "p2psip overlay invite --at ADDRESS"
        )
    now, token = time.time(), make_token(os.urandom)
    expires = int(now) + hours * 3600
    book = InvitationBook(loaded.peer.state / INVITATIONS)
    missing = _missing(loaded, joined.info)
    book.add(Invitation(read_token(token), joined.info.id, expires), now)
    emit(
        {
            "token": token,
            "expires": expires,
            "domain": joined.info.domain,
            "missing": missing,
        },
        [
            f"{token} invites to {joined.info.domain} for {hours} h; on this LAN somebody types:",
            f"  p2psip join {token}",
            *([f"Before that: {missing}"] if missing else []),
        ],
        as_json=as_json,
    )


def _missing(profile: "Profile", info: "OverlayInfo") -> str | None:
    """What must be done before this peer lets in whom it invites to an overlay; None: nothing."""
    from overlay.commands.running import readable
    from overlay.control import ControlRefused, PeerNotRunning, ask, control_path

    again = f"p2psip stop -p {profile.path}; p2psip run {profile.path}"
    try:
        status = ask(control_path(profile.peer.state), "status")
    except PeerNotRunning:
        return f"start the peer, for none answers on this LAN now: p2psip run {profile.path}"
    except ControlRefused as error:
        return f"see why the peer that runs cannot be asked: {error}"
    with readable():
        known = any(each["id"] == info.id.hex() for each in status["overlays"].values())
        absent = status["lan"].get("absent", ()) if "lan" in status else None
    if absent is None or not known:
        return f"start the peer anew, for it began before its profile said all this: {again}"
    if absent and len(absent) == len(profile.host.lan_links):
        return f"correct lan in [host], for this machine has no interface {', '.join(absent)}"
    return None


@ca_app.command()
def issue(
    *,
    aor: Annotated[list[str], typer.Option(help="The name, sip:user@domain; repeatable.")],
    account: Annotated[Path, typer.Option(help="Account file (p2psip account export).")],
    overlay: Annotated[Path, typer.Option(help="Overlay file.")] = Path(OVERLAY_NAME),
    ca_key: Annotated[Path, typer.Option(help="Key of the CA.")] = Path(CA_NAME),
    out: Annotated[
        Path | None, typer.Option(help="Certificate file; default: USER.cert.pem.")
    ] = None,
    days: Annotated[int, typer.Option(min=1, max=180, help="How long it is valid.")] = 180,
    as_json: JsonOption = False,
) -> None:
    """Certify that names belong to an account.

    Example: p2psip ca issue --aor sip:alice@example.org --account alice.toml
    """
    from hipctl import HostIdentity
    from overlay.accounts import canonical_aor, split_aor
    from overlay.admission import certify, load_account
    from overlay.overlayfile import load_overlay

    info, names = load_overlay(overlay), [canonical_aor(text) for text in aor]
    key, subject = HostIdentity.load(ca_key), load_account(account).host_id
    target = out or Path(f"{_file_name(split_aor(names[0])[0])}.cert.pem")
    if target.exists():
        raise ConfigError(f"{target} exists; choose another name with --out")
    now = time.time()
    der = certify(key, info, subject, names, now, os.urandom, life=days * DAY)
    replace_file(target, ssl.DER_cert_to_PEM_cert(der))
    value = {
        "certificate": str(target),
        "aors": names,
        "account": str(subject.hit),
        "not_after": int(now) + days * DAY,
    }
    line = f"{target}; its owner types: p2psip account add-certificate {target.name}"
    emit(value, [line], as_json=as_json)


def _file_name(user: str) -> str:
    """A user part as a file's name."""
    return "".join(c if c.isalnum() or c in "-_." else "_" for c in user).lstrip(".") or "name"


def _seed(text: str) -> "Seed":
    from overlay.overlayfile import parse_seed

    try:
        return parse_seed(text)
    except ValueError as error:
        raise ConfigError(f"seed {text}: {error}; write HIT@host:port") from None
