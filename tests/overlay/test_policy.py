from dataclasses import replace
from itertools import product

import pytest

from overlay import Evidence, Verdict
from overlay.policy import ContactsFirst

PROVEN = Evidence("INVITE", "sip:bob@a.example", "sip:alice@a.example", True, False, False)


@pytest.mark.parametrize("method", ["INVITE", "MESSAGE", "OPTIONS"])
def test_who_proves_an_identity_rings(method: str) -> None:
    assert ContactsFirst().judge(replace(PROVEN, method=method)) is Verdict.RING


def test_a_contacts_name_that_is_not_proven_does_not_ring() -> None:
    forged = replace(PROVEN, proven=False, contact=True)
    assert ContactsFirst().judge(forged) is Verdict.REFUSE


def test_the_blocked_are_refused_whatever_they_prove() -> None:
    for proven, contact in product((True, False), repeat=2):
        evidence = replace(PROVEN, proven=proven, contact=contact, blocked=True)
        assert ContactsFirst().judge(evidence) is Verdict.REFUSE
