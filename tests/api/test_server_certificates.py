"""The doors' own certificates, issued by the real signer: made once, renewed in time, left alone when external."""

from datetime import timedelta

from cryptography import x509

from api import server_certificates
from lachan import clock
from lachan.runtime import Runtime


def test_a_doors_certificate_is_made_kept_and_renewed(signer_rt: Runtime) -> None:
    files, new = server_certificates.ensure(signer_rt, "device")
    assert new
    assert files.key.stat().st_mode & 0o777 == 0o600
    leaf, issuing = x509.load_pem_x509_certificates(files.chain.read_bytes())
    assert leaf.issuer == issuing.subject
    leaf.verify_directly_issued_by(issuing)
    names = leaf.extensions.get_extension_for_class(x509.SubjectAlternativeName).value
    assert names.get_values_for_type(x509.DNSName) == ["localhost"]
    before = files.chain.read_bytes()
    assert server_certificates.ensure(signer_rt, "device") == (files, False)
    with clock.travel(timedelta(days=75)):  # a third of its life is left no more
        assert server_certificates.ensure(signer_rt, "device") == (files, True)
    assert files.chain.read_bytes() != before
    people, new = server_certificates.ensure(signer_rt, "people")
    assert new
    assert people.key.read_bytes() != files.key.read_bytes()


def test_one_that_was_made_while_the_clock_was_ahead_is_made_anew(signer_rt: Runtime) -> None:
    with clock.travel(timedelta(days=36)):
        files, _ = server_certificates.ensure(signer_rt, "device")
    assert server_certificates.ensure(signer_rt, "device")[1]
    (leaf, _) = x509.load_pem_x509_certificates(files.chain.read_bytes())
    assert leaf.not_valid_before_utc <= clock.now()


def test_a_lost_key_or_half_a_file_mean_a_new_certificate(signer_rt: Runtime) -> None:
    files, _ = server_certificates.ensure(signer_rt, "device")
    files.key.unlink()
    assert server_certificates.ensure(signer_rt, "device")[1]
    files.chain.write_bytes(files.chain.read_bytes()[:100])
    assert server_certificates.ensure(signer_rt, "device")[1]
    (files.chain.parent / "device.external").touch()
    files.chain.write_text("the operator's own")
    assert server_certificates.ensure(signer_rt, "device") == (files, False)
