"""The root: its certificate and CRL are found from the issuing certificate, and its CRL is renewed by bringing the key back."""

import json
import subprocess
from datetime import timedelta
from pathlib import Path

import httpx
import pytest
from cryptography import x509
from cryptography.hazmat.primitives.serialization import Encoding
from cryptography.x509.oid import AuthorityInformationAccessOID

from lachan import clock
from lachan.errors import Invalid
from lachan.program import cli
from lachan.runtime import Runtime
from pki import authorities, crl, service, setup
from tests.pki.doors import open_doors
from tests.pki.support import facts
from tests.support import need


def told(certificate: x509.Certificate) -> tuple[str, str]:
    """Where the CRL and the issuer's certificate are had."""
    points = certificate.extensions.get_extension_for_class(x509.CRLDistributionPoints).value
    access = certificate.extensions.get_extension_for_class(x509.AuthorityInformationAccess).value
    (issuer,) = [one for one in access if one.access_method == AuthorityInformationAccessOID.CA_ISSUERS]
    assert points[0].full_name
    return str(points[0].full_name[0].value), str(issuer.access_location.value)


def test_what_the_issuing_certificate_names_is_there_and_verifies(signer_rt: Runtime, tmp_path: Path) -> None:
    found = service.hierarchy(signer_rt.db)
    list_url, issuer_url = told(found.issuing)
    base = signer_rt.settings.status_url
    assert (list_url, issuer_url) == (f"{base}/crl/root.crl", f"{base}/ca/root.crt")
    with open_doors(signer_rt, tmp_path / "clients") as doors:
        there = doors.url("status")
        root = httpx.get(issuer_url.replace(base, there)).content
        listed = httpx.get(list_url.replace(base, there)).content
    assert x509.load_der_x509_certificate(root) == found.root
    for name, octets in (("root.crt", found.root.public_bytes(Encoding.PEM)), ("issuing.crt", found.issuing.public_bytes(Encoding.PEM)),
                         ("root.crl", x509.load_der_x509_crl(listed).public_bytes(Encoding.PEM))):  # fmt: skip
        (tmp_path / name).write_bytes(octets)
    line = [
        need.program("openssl", package="openssl"), "verify", "-x509_strict", "-crl_check", "-CAfile", str(tmp_path / "root.crt"),
        "-CRLfile", str(tmp_path / "root.crl"), str(tmp_path / "issuing.crt"),
    ]  # fmt: skip
    done = subprocess.run(line, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr


def test_it_is_renewed_with_the_key_at_hand(
    signer_rt: Runtime, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    rt, offline = signer_rt, tmp_path / "offline"
    before = crl.latest(rt, authorities.ROOT)
    assert not [problem for problem in crl.health(rt) if "root" in problem.what]
    now = clock.now()
    with monkeypatch.context() as late:
        late.setattr(clock, "now", lambda: now + timedelta(days=300))
        assert any("lachan pki root-crl" in problem.next for problem in crl.health(rt))
    (rt.settings.data / "initialised").touch()
    with open_doors(rt, tmp_path / "clients") as doors:
        url = f"{doors.url('status')}/crl/root.crl"
        assert (
            x509.load_der_x509_crl(httpx.get(url).content)
            .extensions.get_extension_for_class(x509.CRLNumber)
            .value.crl_number
            == 1
        )
        assert cli.main(["pki", "root-crl", str(offline), "--data", str(rt.settings.data), "--json"]) == 0
        assert json.loads(capsys.readouterr().out)["number"] == 2
        served = x509.load_der_x509_crl(httpx.get(url).content)
    assert served.extensions.get_extension_for_class(x509.CRLNumber).value.crl_number == 2
    assert served.is_signature_valid(service.hierarchy(rt.db).root.public_key())  # type: ignore[arg-type]
    after = crl.latest(rt, authorities.ROOT)
    assert (before.number, after.number) == (1, 2) and after.next_update >= before.next_update
    assert [fact.event.number for fact in facts(rt, "RootCrlRenewed")] == [2]


def test_another_key_or_no_folder_renews_nothing(signer_rt: Runtime, tmp_path: Path) -> None:
    root = service.hierarchy(signer_rt.db).root
    other = tmp_path / "other"
    setup.store_offline(setup.make_root(), other)
    for folder, why in ((other, "another root's"), (tmp_path / "none", "holds no root key")):
        with pytest.raises(Invalid, match=why):
            setup.bring_root(folder, root)
    (other / "root.passphrase").write_text("wrong\n")
    with pytest.raises(Invalid, match="does not open"):
        setup.bring_root(other, root)
    assert crl.latest(signer_rt, authorities.ROOT).number == 1
    assert facts(signer_rt, "RootCrlRenewed") == []
