"""Judging chains: pure, without a door."""

from datetime import UTC, datetime, timedelta
from pathlib import Path

import pytest
from cryptography import x509
from cryptography.hazmat.primitives import hashes
from cryptography.hazmat.primitives.serialization import Encoding
from cryptography.x509.oid import NameOID

from api.device.access import forwarded_chain
from api.device.certificates import Anchor, judge
from api.device.errors import CertificateMissing, CertificateRefused
from tests.api.support import Authority, Credential

DEVICE = "0192a0a0-0000-7000-8000-000000000000"
NOW = datetime.now(UTC)


def der(*certificates: x509.Certificate) -> list[bytes]:
    return [certificate.public_bytes(Encoding.DER) for certificate in certificates]


def reason(chain: list[bytes], *anchors: Anchor) -> str:
    with pytest.raises(CertificateRefused) as caught:
        judge(chain, anchors, at=NOW)
    return str(caught.value.fields["reason"])


@pytest.fixture
def root(tmp_path: Path) -> Authority:
    return Authority(tmp_path / "root", "root")


def below(root: Authority, folder: Path, *, ca: bool = True) -> Authority:
    """An authority under another one (or something that only pretends to be one)."""
    made = root.issue("between", sans=[], purposes=[], ca=ca)
    found = Authority(folder, "between")
    found.key, found.certificate = made.key, made.certificate
    found.name = x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, "between")])
    return found


def test_a_good_leaf_names_its_device_and_the_anchors_vendors(root: Authority) -> None:
    leaf = root.device(DEVICE)
    found = judge([leaf.der], [Anchor(root.certificate, None), Anchor(root.certificate, "acme")], at=NOW)
    assert (found.device_id, found.vendors) == (DEVICE, frozenset({None, "acme"}))


def test_the_chain_may_pass_through_others_in_any_order(root: Authority, tmp_path: Path) -> None:
    between = below(root, tmp_path / "between")
    leaf = between.device(DEVICE)
    anchor = Anchor(root.certificate, None)
    for rest in (
        [between.certificate],
        [between.certificate, root.certificate],
        [root.certificate, between.certificate],
    ):
        assert judge([leaf.der, *der(*rest)], [anchor], at=NOW).device_id == DEVICE
    assert reason([leaf.der], anchor) == "unknown-issuer"
    assert judge([leaf.der], [Anchor(between.certificate, None)], at=NOW).device_id == DEVICE  # an issuing anchor


def test_a_leaf_cannot_issue(root: Authority, tmp_path: Path) -> None:
    pretender = below(root, tmp_path / "between", ca=False)
    assert reason([pretender.device(DEVICE).der, *der(pretender.certificate)], Anchor(root.certificate, None)) == (
        "unknown-issuer"
    )


def test_a_stranger_of_the_same_name_is_a_stranger(root: Authority, tmp_path: Path) -> None:
    twin = Authority(tmp_path / "twin", "root")
    leaf = twin.device(DEVICE)
    assert reason([leaf.der, *der(twin.certificate)], Anchor(root.certificate, None)) == "unknown-issuer"
    assert reason([leaf.der]) == "unknown-issuer"  # no anchors at all


def test_what_else_is_refused(root: Authority) -> None:
    anchor = Anchor(root.certificate, None)
    good = root.device(DEVICE)
    assert reason([b"no certificate"], anchor) == "malformed"
    assert reason([b""], anchor) == "malformed"
    assert reason([good.der[:-1] + bytes([good.der[-1] ^ 1])], anchor) == "unknown-issuer"
    assert reason([good.der] * 7, anchor) == "too-long"
    assert reason(der(root.certificate), anchor) in ("wrong-purpose", "no-device-name")
    with pytest.raises(CertificateMissing):
        judge([], [anchor], at=NOW)


def test_time_is_asked_of_every_certificate_of_the_chain(root: Authority, tmp_path: Path) -> None:
    leaf = root.device(DEVICE, end=timedelta(days=5000))
    with pytest.raises(CertificateRefused):  # the anchor itself is over by then
        judge([leaf.der], [Anchor(root.certificate, None)], at=NOW + timedelta(days=1000))


def test_weak_signatures_are_refused(root: Authority, monkeypatch: pytest.MonkeyPatch) -> None:
    """This OpenSSL does not sign with SHA-1 any more, so the test declares SHA-256 weak instead."""
    monkeypatch.setattr("api.device.certificates._WEAK", (hashes.SHA256,))
    assert reason([root.device(DEVICE).der], Anchor(root.certificate, None)) == "weak-signature"


@pytest.mark.parametrize("name", ["urn:uuid:0192A0A0-0000-7000-8000-000000000000", f"URN:UUID:{DEVICE}"])
def test_a_name_is_read_whatever_its_case(root: Authority, name: str) -> None:
    leaf: Credential = root.issue("x", sans=[x509.UniformResourceIdentifier(name)])
    assert judge([leaf.der], [Anchor(root.certificate, None)], at=NOW).device_id == DEVICE


@pytest.mark.parametrize(
    ("certificate", "chain", "expected"),
    [
        (":YQ==:", "", [b"a"]),
        (":YQ==:", ":Yg==:, :Yw==:", [b"a", b"b", b"c"]),
        ("", "", []),
        (":YQ==:", ":Yg==:,:Yw==:", [b"a", b"b", b"c"]),
    ],
)
def test_forwarded_headers_are_read(certificate: str, chain: str, expected: list[bytes]) -> None:
    assert forwarded_chain(certificate, chain) == expected


@pytest.mark.parametrize("certificate", ["YQ==", ":", "::", ":YQ=:", ":Y Q:", ":YQ==", "x:YQ==:"])
def test_malformed_forwarded_headers_are_refused(certificate: str) -> None:
    with pytest.raises(CertificateRefused):
        forwarded_chain(certificate, "")
