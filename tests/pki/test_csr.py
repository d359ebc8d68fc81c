"""Whatever octets come as a request: they are read, or refused as malformed; nothing else happens."""

import types

import pytest
from cryptography import x509
from cryptography.hazmat.primitives.asymmetric import ec, ed25519, rsa
from cryptography.hazmat.primitives.serialization import Encoding, PublicFormat
from hypothesis import given, settings
from hypothesis import strategies as st

from pki import names
from pki.csr import check_binding, check_claims, read
from pki.errors import CsrMalformed, IdentityMismatch, KeyUnfit
from tests.pki.support import csr, named

GOOD = csr(subject=named("cam-1", "S-1"), names=[x509.DNSName("cam-1")], challenge=b"secret")


@settings(max_examples=300)
@given(st.integers(0, len(GOOD) - 1), st.binary(min_size=1, max_size=4))
def test_bent_requests(at: int, content: bytes) -> None:
    try:
        check_binding(read(GOOD[:at] + content + GOOD[at + len(content) :]), bindings=())
    except CsrMalformed:
        return


@given(st.binary(max_size=200))
def test_any_octets(data: bytes) -> None:
    try:
        read(data)
    except CsrMalformed:
        return


@pytest.mark.parametrize(
    ("made", "kind"),
    [
        (lambda: ec.generate_private_key(ec.SECP256R1()), "p256"),
        (lambda: ec.generate_private_key(ec.SECP384R1()), "p384"),
        (ed25519.Ed25519PrivateKey.generate, "ed25519"),
        (lambda: rsa.generate_private_key(65537, 2048), "rsa"),
    ],
)
def test_the_key_is_the_requests_own_whatever_its_kind(made, kind: str) -> None:
    key = made()
    found = read(csr(key, subject=named("cam-1", "S-1")))
    assert found.spki == key.public_key().public_bytes(Encoding.DER, PublicFormat.SubjectPublicKeyInfo)
    assert found.is_p256 is (kind == "p256")
    found.check_key(allowed=(kind,))
    with pytest.raises(KeyUnfit):
        found.check_key(allowed=("p521",))


@given(st.text(min_size=1, max_size=64), st.text(alphabet="0Aa '()+,-./:=?", min_size=1, max_size=64))
def test_subjects_are_told_as_rfc_4514_writes_them(vendor: str, serial_number: str) -> None:
    made = names.device(device_id="1", name="cam-1", vendor=vendor, serial_number=serial_number, domain="d.invalid")
    wanted = x509.Name(
        [
            x509.NameAttribute(x509.NameOID.ORGANIZATION_NAME, vendor, _validate=False),
            x509.NameAttribute(x509.NameOID.SERIAL_NUMBER, serial_number),
            x509.NameAttribute(x509.NameOID.COMMON_NAME, "cam-1"),
        ]
    )
    assert made.text == wanted.rfc4514_string()


@given(st.sampled_from(["", "cam-1", "cam-2"]), st.sampled_from(["", "S-1", "S-2"]))
def test_subject_and_key_are_found_where_they_stand(name: str, serial_number: str) -> None:
    parts = [x509.NameAttribute(x509.NameOID.SERIAL_NUMBER, serial_number)] if serial_number else []
    parts += [x509.NameAttribute(x509.NameOID.COMMON_NAME, name)] if name else []
    found = read(csr(subject=x509.Name(parts)))
    assert found.subject == x509.Name(parts).public_bytes()
    device = types.SimpleNamespace(id="1", name="cam-1", serial_number="S-1", address=None)
    if "2" in name + serial_number:
        with pytest.raises(IdentityMismatch):
            check_claims(found, device, domain="d.invalid")
    else:
        check_claims(found, device, domain="d.invalid")
