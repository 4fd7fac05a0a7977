"""``p2psip contact``: petnames and the block list."""

from typing import Annotated

import typer

from overlay.commands.run import profile_path
from overlay.commands.terminal import JsonOption, ProfileOption, emit, peer_table
from overlay.contacts import ContactBook
from overlay.errors import ConfigError

app = typer.Typer(help="Names for people, which your client may dial, and whom to block.")

Uri = Annotated[str, typer.Argument(help="sip:user@domain", show_default=False)]
UriOrName = Annotated[str, typer.Argument(help="sip:user@domain or a name", show_default=False)]
Name = Annotated[str, typer.Argument(help="The name, one word", show_default=False)]


def _book(profile: ProfileOption) -> ContactBook:
    return ContactBook(peer_table(profile).contacts)


def _keys_only(profile: ProfileOption) -> list[str]:
    """Domains of the profile's overlays that have no CA; none while the profile is wrong."""
    from overlay.config import load_profile

    try:
        loaded = load_profile(profile_path(profile), new_account=True)
    except ConfigError:
        return []
    return [joined.info.domain for joined in loaded.overlays.values() if not joined.info.ca]


@app.command()
def add(name: Name, uri: Uri, profile: ProfileOption = None, as_json: JsonOption = False) -> None:
    """Give somebody a name; clients may dial it.

    Example: p2psip contact add mum sip:alice@example.org
    """
    aor = _book(profile).add(name, uri, _keys_only(profile))
    emit({"name": name, "aor": aor}, [f"{name} is {aor}"], as_json=as_json)


@app.command()
def remove(name: Name, profile: ProfileOption = None, as_json: JsonOption = False) -> None:
    """Forget a name.

    Example: p2psip contact remove mum
    """
    _book(profile).remove(name)
    emit({"removed": name}, (), as_json=as_json)


@app.command("list")
def list_(profile: ProfileOption = None, as_json: JsonOption = False) -> None:
    """Show the names and who is blocked.

    Example: p2psip contact list --json
    """
    book = _book(profile)
    names, blocked = book.names(), sorted(book.blocked())
    width = max(map(len, names), default=0)
    lines = [f"{name:<{width}}  {aor}" for name, aor in names.items()]
    lines += [f"blocked: {aor}" for aor in blocked]
    emit(
        {"contacts": names, "blocked": blocked},
        lines or ["no contacts; add one with: p2psip contact add NAME sip:user@domain"],
        as_json=as_json,
    )


@app.command()
def block(uri: UriOrName, profile: ProfileOption = None, as_json: JsonOption = False) -> None:
    """Refuse somebody's calls and messages, as if you did not exist.

    Example: p2psip contact block sip:mallory@example.org
    """
    aor = _book(profile).block(uri, _keys_only(profile))
    emit({"blocked": aor}, [f"{aor} is blocked"], as_json=as_json)


@app.command()
def unblock(uri: UriOrName, profile: ProfileOption = None, as_json: JsonOption = False) -> None:
    """Let somebody call again.

    Example: p2psip contact unblock sip:mallory@example.org
    """
    aor = _book(profile).unblock(uri)
    emit({"unblocked": aor}, [f"{aor} may call again"], as_json=as_json)
