"""Judging chains: pure, without a door."""

from collections.abc import Sequence
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import pytest
from cryptography import x509
from cryptography.hazmat.primitives import hashes
from cryptography.hazmat.primitives.serialization import Encoding
from cryptography.x509.oid import ExtendedKeyUsageOID, NameOID

from api.device.access import forwarded_chain
from api.device.certificates import Anchor, judge
from api.device.errors import CertificateMissing, CertificateRefused
from api.device.paths import WORDS, StrictRule
from tests.api.support import SIGNS_CERTIFICATES, Authority, Credential

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


def below(
    root: Authority, folder: Path, *, ca: bool = True, purposes: Sequence[Any] = (), usage: bool = True, **more: Any
) -> Authority:
    """An authority under another one (or something that only pretends to be one)."""
    made = root.issue("between", sans=[], purposes=purposes, ca=ca, usage=SIGNS_CERTIFICATES if usage else None, **more)
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


CLIENT, SERVER, ANY = (
    ExtendedKeyUsageOID.CLIENT_AUTH, ExtendedKeyUsageOID.SERVER_AUTH, ExtendedKeyUsageOID.ANY_EXTENDED_KEY_USAGE,
)  # fmt: skip
AGREES = x509.KeyUsage(
    digital_signature=False, content_commitment=False, key_encipherment=False, data_encipherment=False,
    key_agreement=True, key_cert_sign=False, crl_sign=False, encipher_only=False, decipher_only=False,
)  # fmt: skip
SIGNS_ALL = x509.KeyUsage(
    digital_signature=True, content_commitment=False, key_encipherment=False, data_encipherment=False,
    key_agreement=False, key_cert_sign=True, crl_sign=False, encipher_only=False, decipher_only=False,
)  # fmt: skip


@pytest.mark.parametrize(
    ("wrong", "why", "why_of_a_vendor"),
    [
        ({}, "", ""),
        ({"purposes": [CLIENT, SERVER]}, "", ""),
        ({"purposes": []}, "wrong-purpose", ""),  # a manufacturer's may say none
        ({"purposes": [SERVER]}, "wrong-purpose", "wrong-purpose"),
        ({"purposes": [ANY]}, "wrong-purpose", "wrong-purpose"),
        ({"ca": True}, "wrong-purpose", "wrong-purpose"),
        ({"ca": True, "usage": SIGNS_ALL}, "wrong-purpose", "wrong-purpose"),
        ({"usage": AGREES}, "wrong-purpose", "wrong-purpose"),
        ({"usage": SIGNS_ALL}, "not-strict", "not-strict"),
        ({"usage": None}, "not-strict", "not-strict"),
        ({"without": (x509.AuthorityKeyIdentifier,)}, "not-strict", "not-strict"),
        ({"without": (x509.SubjectKeyIdentifier,)}, "", ""),
        ({"more": ((x509.UnrecognizedExtension(x509.ObjectIdentifier("1.2.3.4"), b"\x05\x00"), True),)},
         "unknown-issuer", "unknown-issuer"),
    ],
)  # fmt: skip
def test_what_a_leaf_must_be(root: Authority, wrong: dict[str, Any], why: str, why_of_a_vendor: str) -> None:
    leaf = root.device(DEVICE, **wrong)
    for vendor, expected in ((None, why), ("acme", why_of_a_vendor)):
        anchor = Anchor(root.certificate, vendor)
        if expected:
            assert reason([leaf.der], anchor) == expected
        else:
            assert judge([leaf.der], [anchor], at=NOW).vendors == {vendor}
    if why and not why_of_a_vendor:  # one that both certified is believed as the manufacturer's alone
        both = [Anchor(root.certificate, None), Anchor(root.certificate, "acme")]
        assert judge([leaf.der], both, at=NOW).vendors == {"acme"}


def test_an_authority_on_the_path_binds_too(root: Authority, tmp_path: Path) -> None:
    anchor = Anchor(root.certificate, "acme")
    for name, made, expected in (
        ("good", {"purposes": [CLIENT]}, ""),
        ("for servers", {"purposes": [SERVER]}, "wrong-purpose"),
        ("no usage", {"usage": False}, "not-strict"),
        ("no identifier", {"without": (x509.SubjectKeyIdentifier,)}, "not-strict"),
    ):
        between = below(root, tmp_path / name, **made)  # type: ignore[arg-type]
        chain = [between.device(DEVICE).der, *der(between.certificate)]
        if expected:
            assert reason(chain, anchor) == expected, name
        else:
            assert judge(chain, [anchor], at=NOW).vendors == {"acme"}


def test_an_exception_is_of_one_rule_at_one_anchor(root: Authority, tmp_path: Path) -> None:
    no_key_usage = root.device(DEVICE, usage=None)
    no_identifier = root.device(DEVICE, without=(x509.AuthorityKeyIdentifier,))
    both = root.device(DEVICE, usage=SIGNS_ALL, without=(x509.AuthorityKeyIdentifier,))
    one, other = StrictRule.NO_KEY_USAGE, StrictRule.NO_AUTHORITY_KEY_IDENTIFIER

    def anchor(*rules: StrictRule) -> Anchor:
        return Anchor(root.certificate, "acme", frozenset(rules))

    for leaf, rule, wrong in ((no_key_usage, one, other), (no_identifier, other, one)):
        assert judge([leaf.der], [anchor(rule)], at=NOW).vendors == {"acme"}
        assert reason([leaf.der], anchor(wrong)) == "not-strict"
        assert reason([leaf.der], anchor()) == "not-strict"
    for rules in ((other,), (StrictRule.KEY_CERT_SIGN_WITHOUT_CA,)):
        assert reason([both.der], anchor(*rules)) == "not-strict"
    assert judge([both.der], [anchor(other, StrictRule.KEY_CERT_SIGN_WITHOUT_CA)], at=NOW).vendors == {"acme"}
    stranger = Authority(tmp_path / "stranger", "root")
    assert reason([stranger.device(DEVICE).der], anchor(*StrictRule)) == "unknown-issuer"
    assert reason([root.device(DEVICE, ca=True).der], anchor(*StrictRule)) == "wrong-purpose"
    assert WORDS["no-authority-key-identifier"] is other


def test_every_rule_that_openssl_calls_broken_is_known_by_its_code(root: Authority, tmp_path: Path) -> None:
    """Our own reading of a path must not say less than OpenSSL's: each breach alone, found by both."""
    ids = (x509.SubjectKeyIdentifier, x509.AuthorityKeyIdentifier)
    leaves = {
        StrictRule.KEY_CERT_SIGN_WITHOUT_CA: root.device(DEVICE, usage=SIGNS_ALL),
        StrictRule.NO_AUTHORITY_KEY_IDENTIFIER: root.device(DEVICE, without=ids),
    }
    chains = {rule: [leaf.der] for rule, leaf in leaves.items()}
    for rule, made in {
        StrictRule.AUTHORITY_WITHOUT_KEY_USAGE: {"usage": False},
        StrictRule.NO_SUBJECT_KEY_IDENTIFIER: {"without": ids[:1]},
    }.items():
        between = below(root, tmp_path / rule.word, **made)  # type: ignore[arg-type]
        chains[rule] = [between.device(DEVICE).der, *der(between.certificate)]
    for rule, chain in chains.items():
        for excepted in StrictRule:
            anchor = Anchor(root.certificate, "acme", frozenset({excepted}))
            if excepted is rule:
                assert judge(chain, [anchor], at=NOW).vendors == {"acme"}, rule
            else:
                assert reason(chain, anchor) == "not-strict", (rule, excepted)


#: subjectAltName contents that parsers choke on: x400Address, ediPartyName, a directory name of no set, an empty list, garbage.
STRANGE = ("3006a504a1020c00", "3006a304a1020c00", "3004a4023000", "3000", "3003870100", "0500", "30820000", "ff")


@pytest.mark.parametrize("content", STRANGE)
def test_whatever_a_parser_raises_is_a_refusal(root: Authority, content: str, caplog: pytest.LogCaptureFixture) -> None:
    strange = x509.UnrecognizedExtension(x509.SubjectAlternativeName.oid, bytes.fromhex(content))
    leaf = root.issue("x", sans=[], more=((strange, False),))
    with caplog.at_level("INFO", logger="lachan.api.device"):
        assert reason([leaf.der], Anchor(root.certificate, None)) in ("malformed", "no-device-name")
    lines = [record for record in caplog.records if record.name == "lachan.api.device"]
    assert all(record.exc_info is None and "\n" not in record.getMessage() for record in lines)
    assert len(lines) <= 1


def test_the_same_extension_twice_is_a_refusal(root: Authority) -> None:
    """Two subject alternative names, of which one parser might take the first and another the last."""
    name = x509.SubjectAlternativeName([x509.UniformResourceIdentifier(f"urn:uuid:{DEVICE}")])
    other = x509.UnrecognizedExtension(x509.ObjectIdentifier("2.5.29.18"), name.public_bytes())
    leaf = root.device(DEVICE, more=((other, False),))
    twice = leaf.der.replace(bytes.fromhex("0603551d12"), bytes.fromhex("0603551d11"))
    assert twice != leaf.der
    assert reason([twice], Anchor(root.certificate, None)) == "malformed"


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
