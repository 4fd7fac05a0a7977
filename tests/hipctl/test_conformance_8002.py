"""What RFC 8002 asks for and no other test shows; docs/conformance/rfc8002.md says which row."""

from hipctl import credentials, params
from hipctl.constants import CertType, ParameterType
from hipctl.interface import Shown
from hipctl.wire import frame


def test_each_certificate_is_a_complete_group_and_groups_ascend() -> None:
    found = credentials.parameters(Shown((b"one", b"two", b"three")))
    certs = [parameter for parameter in found if isinstance(parameter, params.Cert)]
    assert [(c.group, c.count, c.id) for c in certs] == [(1, 1, 1), (2, 1, 1), (3, 1, 1)]
    assert {c.type for c in certs} == {CertType.X509_V3}
    assert params.decode(params.encode(found)) == found


def test_cert_is_laid_out_as_the_rfc_s_figure() -> None:
    cert = params.Cert(1, 2, 3, 4, b"\xaa\xbb")
    assert frame(cert.TYPE, cert.content()).hex() == "0300000601020304aabb000000000000"


def test_cert_is_not_critical_and_stands_before_mac_and_signature() -> None:
    assert not ParameterType.CERT & 1
    assert ParameterType.CERT < ParameterType.HIP_MAC < ParameterType.HIP_SIGNATURE


def test_our_private_parameters_are_in_the_private_range_and_not_critical() -> None:
    ours = [ParameterType.LAN_INFO, ParameterType.INVITATION, ParameterType.DELEGATION]
    assert [code for code in ParameterType if 32_768 <= code <= 49_151] == ours
    assert not any(code & 1 for code in ours)
