"""The DER writer writes what the library reads, and the reader takes nothing but DER."""

from datetime import UTC, datetime

import pytest
from cryptography import x509
from hypothesis import given
from hypothesis import strategies as st

from lachan import der
from pki import setup
from pki.authorities import Authority
from pki.crl_signing import crl_body
from pki.listed import encode
from pki.ocsp import parse
from pki.profiles import ECDSA_SHA256


@given(st.integers(-(2**200), 2**200))
def test_integers_are_shortest(value: int) -> None:
    content = der.Reader(der.integer(value)).take(0x02)
    assert int.from_bytes(content, "big", signed=True) == value
    assert len(content) == 1 or content[0] not in (0x00, 0xFF) or (content[0] ^ content[1]) & 0x80


@given(st.binary(max_size=70_000))
def test_lengths_are_read_back(content: bytes) -> None:
    reader = der.Reader(der.octets(content))
    assert reader.take(0x04) == content
    reader.end()


@pytest.mark.parametrize(
    "dotted", ["2.5.29.15", "1.3.6.1.5.5.7.48.1.2", "2.16.840.1.101.3.4.2.1", "1.2.840.10045.4.3.2"]
)
def test_object_identifiers(dotted: str) -> None:
    name = x509.Name([x509.NameAttribute(x509.ObjectIdentifier(dotted), "x")])
    assert der.oid(dotted) in name.public_bytes()


@pytest.mark.parametrize(
    ("when", "tag"),
    [(datetime(2049, 12, 31, tzinfo=UTC), 0x17), (datetime(2050, 1, 1, tzinfo=UTC), 0x18)],
)
def test_times_change_their_type_in_2050(when: datetime, tag: int) -> None:
    assert der.moment(when)[0] == tag


@pytest.mark.parametrize(
    "data",
    [
        b"",
        b"\x04",
        b"\x04\x05ab",
        b"\x04\x81\x05abcde",
        b"\x04\x80ab\0\0",
        b"\x04\x82\x00\x85" + b"a" * 133,
        b"\x02\x01a",
    ],
)
def test_what_is_no_der_is_refused(data: bytes) -> None:
    with pytest.raises(der.MalformedDer):
        der.Reader(data).take(0x04)


def test_printable_strings_keep_to_their_alphabet() -> None:
    assert der.printable("S-1 (a)") == b"\x13\x07S-1 (a)"
    with pytest.raises(der.MalformedDer):
        der.printable("S_1@é")


@given(st.binary(max_size=300))
def test_the_ocsp_parser_refuses_or_reads_but_never_breaks(data: bytes) -> None:
    try:
        parse(data)
    except der.MalformedDer:
        return


def test_a_long_crl_is_read_by_the_library() -> None:
    root, now = setup.make_root(), datetime(2026, 7, 1, tzinfo=UTC)
    reasons = ["unspecified", "key_compromise", "certificate_hold", "privilege_withdrawn"]
    rows = [(f"{(1 << 126) + n:x}", "2026-07-01 00:00:00.000000", reasons[n % 4]) for n in range(20_000)]
    body = crl_body(
        Authority("issuing", root.certificate), [encode(rows[:300]), encode(rows[300:])], number=300, this_update=now,
        next_update=datetime(2051, 1, 1, tzinfo=UTC),
    )  # fmt: skip
    signature = der.sequence(der.integer(1), der.integer(1))
    found = x509.load_der_x509_crl(der.signed(b"".join(body), ECDSA_SHA256, signature))
    assert len(found) == len(rows)
    assert found.next_update_utc is not None and found.next_update_utc.year == 2051
    listed = found.get_revoked_certificate_by_serial_number((1 << 126) + 19_998)
    assert listed is not None
    assert listed.extensions.get_extension_for_class(x509.CRLReason).value.reason is x509.ReasonFlags.certificate_hold


def test_entries_of_any_serial_number_moment_and_reason_are_read_by_the_library() -> None:
    """Beside those of 16 octets, which are put together from ready-made lengths."""
    root, now = setup.make_root(), datetime(2026, 7, 1, tzinfo=UTC)
    rows = [
        ("5a", "2026-07-01 10:20:30", "unspecified"),
        ("80" + "0" * 30, "2026-07-01 10:20:30.250000", "key_compromise"),
        ("0" + "7" * 31, "2051-01-02 03:04:05", "superseded"),
        ("4" + "f" * 31, "2049-12-31 23:59:59", "nobody knows this reason"),
        ("4" + "e" * 39, "2026-07-01 10:20:30", "certificate_hold"),
    ]
    body = crl_body(Authority("issuing", root.certificate), [encode(rows)], number=1, this_update=now, next_update=now)
    found = x509.load_der_x509_crl(
        der.signed(b"".join(body), ECDSA_SHA256, der.sequence(der.integer(1), der.integer(1)))
    )
    assert [f"{one.serial_number:x}" for one in found] == [serial.lstrip("0") for serial, _, _ in rows]
    assert [f"{one.revocation_date_utc:%Y-%m-%d %H:%M:%S}" for one in found] == [since[:19] for _, since, _ in rows]
    assert [len(one.extensions) for one in found] == [0, 1, 1, 0, 1]
