"""Who may associate with us: lists of HITs, changed at any time."""

from collections.abc import Collection

from hipctl.identity import Hit


class Access:
    """Deny beats allow; without an allow list whoever isn't denied may.

    Attributes:
        allow: only these, or None for everybody.
        deny: never these.
    """

    __slots__ = ("allow", "deny")

    def __init__(self, allow: Collection[Hit] | None = None, deny: Collection[Hit] = ()) -> None:
        self.allow = None if allow is None else frozenset(allow)
        self.deny = frozenset(deny)

    def permits(self, peer: Hit) -> bool:
        """Whether ``peer`` may associate with us."""
        return peer not in self.deny and (self.allow is None or peer in self.allow)
