import random

import pytest
from cryptography.hazmat.primitives.hashes import SHA384
from cryptography.hazmat.primitives.kdf.hkdf import HKDF
from hypothesis import given
from hypothesis import strategies as st

from hipctl import crypto, esp, params
from hipctl.errors import Rejected
from sim import vectors

RNG = random.Random(1)


def drawn(name: str, *, initiator: bool) -> tuple[vectors.Vector, crypto.Keys]:
    vector = vectors.load(name)
    i2 = vector.packet("I2")
    local, peer = i2.sender, i2.receiver
    if not initiator:
        local, peer = peer, local
    solution = i2.need(params.Solution)
    (suite,) = i2.need(params.EspTransform).suites
    (cipher,) = i2.need(params.CipherList).ciphers
    return vector, crypto.draw(
        rhash="sha384",
        secret=vector.secret,
        salt=solution.random_i + solution.answer_j,
        local=local,
        peer=peer,
        cipher=cipher,
        esp_length=esp.keymat_length(suite),
    )


names = pytest.mark.parametrize("name", vectors.NAMES)


@names
def test_golden_keymat_comes_out_of_the_secret(name: str) -> None:
    vector, keys = drawn(name, initiator=True)
    assert vector.keymat.startswith(keys.keymat)
    assert vector.packet("I2").need(params.EspInfo).keymat_index == keys.esp_index
    assert vector.packet("R2").need(params.EspInfo).keymat_index == keys.esp_index


@names
def test_golden_hip_macs_hold(name: str) -> None:
    vector, initiator = drawn(name, initiator=True)
    _, responder = drawn(name, initiator=False)
    r1, i2, r2 = (vector.packet(kind) for kind in ("R1", "I2", "R2"))
    mac, covered = i2.need(params.HipMac).mac, i2.covered(params.HipMac)
    assert responder.mac_fits(covered, mac)
    assert initiator.mac(covered) == mac
    assert not initiator.mac_fits(covered, mac)  # the keys of the two directions differ
    mac_2 = r2.need(params.HipMac2).mac
    host_id = r1.tlv(params.HostIdParameter)
    assert initiator.mac_fits(r2.covered(params.HipMac2, host_id), mac_2)
    assert not initiator.mac_fits(r2.covered(params.HipMac2), mac_2)


@names
def test_golden_esp_opens_with_the_drawn_keys(name: str) -> None:
    vector, initiator = drawn(name, initiator=True)
    (suite,) = vector.packet("I2").need(params.EspTransform).suites
    raw = vector.packets["ESP"].raw  # the first one, from the Initiator
    spi = int.from_bytes(raw[:4], "big")
    assert spi == vector.packet("R2").need(params.EspInfo).new_spi
    _, responder = drawn(name, initiator=False)
    next_header, payload = esp.InboundSa(suite, spi, responder.esp_in).open(raw)
    assert next_header
    assert payload
    with pytest.raises(Rejected):
        esp.InboundSa(suite, spi, initiator.esp_in).open(raw)


@pytest.mark.parametrize("group", sorted(crypto.GROUPS))
def test_both_sides_of_diffie_hellman_get_the_same_secret(group: int) -> None:
    a, b = crypto.DhKey(group, RNG.randbytes), crypto.DhKey(group, RNG.randbytes)
    assert a.shared(b.public) == b.shared(a.public)
    assert len(a.public) == 2 * len(a.shared(b.public)) == {7: 64, 8: 96}[group]


def test_a_secret_keeps_its_leading_zeros() -> None:
    rng = random.Random(3).randbytes
    a = crypto.DhKey(7, rng)
    secrets = [a.shared(crypto.DhKey(7, rng).public) for _ in range(600)]
    assert any(secret[0] == 0 for secret in secrets)
    assert {len(secret) for secret in secrets} == {32}


@pytest.mark.parametrize("public", [b"", bytes(64), bytes(63), b"\1" * 64, bytes(96)])
def test_a_public_value_that_is_no_point_is_rejected(public: bytes) -> None:
    with pytest.raises(Rejected):
        crypto.DhKey(7, RNG.randbytes).shared(public)


@given(st.binary(min_size=32, max_size=48), st.binary(max_size=96), st.integers(1, 300))
def test_keymat_is_the_library_s_hkdf(secret: bytes, salt: bytes, length: int) -> None:
    low, high = bytes(16), b"\1" * 16
    ours = crypto.keymat("sha384", secret, salt, (high, low), length)
    assert ours == HKDF(SHA384(), length, salt, low + high).derive(secret)


def test_keys_are_drawn_in_the_order_of_the_rfc() -> None:
    def keys(local: bytes, peer: bytes) -> crypto.Keys:
        return crypto.draw(
            rhash="sha384",
            secret=b"s",
            salt=b"i",
            local=local,
            peer=peer,
            cipher=4,
            esp_length=20,
        )

    low, high = bytes(16), b"\1" * 16
    greater, lesser = keys(high, low), keys(low, high)
    material = greater.keymat
    assert len(material) == 2 * (32 + 48) + 2 * 20
    assert greater.encrypt_out == lesser.encrypt_in == material[:32]
    assert greater.mac_out == lesser.mac_in == material[32:80]
    assert greater.encrypt_in == lesser.encrypt_out == material[80:112]
    assert greater.mac_in == lesser.mac_out == material[112:160]
    assert greater.esp_index == 160
    assert greater.esp_out == lesser.esp_in == material[160:180]
    assert greater.esp_in == lesser.esp_out == material[180:]


def test_keys_do_not_print_themselves() -> None:
    _, keys = drawn(vectors.NAMES[0], initiator=True)
    assert keys.keymat.hex() not in repr(keys)
    assert str(keys.mac_out) not in repr(keys)


@given(st.sampled_from([16, 32]), st.binary(max_size=100))
def test_what_is_encrypted_is_decrypted(size: int, plain: bytes) -> None:
    key, iv = RNG.randbytes(size), RNG.randbytes(16)
    ciphertext = crypto.encrypt(key, iv, plain)
    assert len(ciphertext) == 16 + len(plain) // 16 * 16 + 16  # PKCS #7 always pads
    assert crypto.decrypt(key, ciphertext) == plain


@given(st.binary(max_size=100))
def test_any_ciphertext_is_decrypted_or_rejected(raw: bytes) -> None:
    try:
        assert len(crypto.decrypt(bytes(16), raw)) < len(raw)
    except Rejected as error:
        assert error.reason == "bad ENCRYPTED"
