"""Whatever octets come as a request: they are read, or refused as malformed; nothing else happens."""

from cryptography import x509
from hypothesis import given, settings
from hypothesis import strategies as st

from pki.csr import check_binding, read
from pki.errors import CsrMalformed
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
