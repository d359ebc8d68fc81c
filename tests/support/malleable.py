"""A certificate's twin: the same tbsCertificate, serial number and key, other bytes, and a signature that verifies.

ECDSA signatures are malleable: if (r, s) verifies then so does (r, n - s), and no key is needed to write one as the
other. Whoever denies by the hash of a whole certificate denies one of two.
"""

from cryptography import x509
from cryptography.hazmat.primitives.asymmetric.utils import decode_dss_signature, encode_dss_signature
from cryptography.hazmat.primitives.serialization import Encoding

from lachan import der

P256_ORDER = 0xFFFFFFFF00000000FFFFFFFFFFFFFFFFBCE6FAADA7179E84F3B9CAC2FC632551  # SEC 2, 2.4.2


def twin_of(certificate: x509.Certificate) -> x509.Certificate:
    """Rewrite the signature of a certificate that was signed with a P-256 key."""
    r, s = decode_dss_signature(certificate.signature)
    algorithm = der.sequence(der.oid(certificate.signature_algorithm_oid.dotted_string))
    signature = encode_dss_signature(r, P256_ORDER - s)
    twin = x509.load_der_x509_certificate(der.signed(certificate.tbs_certificate_bytes, algorithm, signature))
    assert twin.serial_number == certificate.serial_number
    assert twin.public_bytes(Encoding.DER) != certificate.public_bytes(Encoding.DER)
    return twin
