"""Which TLS versions and suites a port accepts, and what its certificate is worth.

One hello per version (`posture.probes.hello`), one that offers only weak suites, then the certificate: from the clear
part of an old handshake, or through the platform's TLS library where only TLS 1.3 is spoken. The thresholds: TLS below
1.2 is refused by the Hanoi IoT plan V.1.1; RSA below 2048 bit, curves below 256 bit and MD5 or SHA-1 signatures by
current practice (ETSI EN 303 645 5.5-1, "best practice cryptography").
"""

from __future__ import annotations

import ssl

from cryptography import x509
from cryptography.exceptions import UnsupportedAlgorithm
from cryptography.hazmat.primitives import hashes
from cryptography.hazmat.primitives.asymmetric import ec, rsa

from lachan import clock
from lachan.errors import LachanError
from lachan.net.sockets import ConnectFailed, SocketRefused
from posture.probes.hello import VERSIONS, WEAK_SUITES, Flight, NotTls, client_hello
from posture.probes.observation import Observation, Outcome, observe
from posture.probes.probe import Inputs, Probe
from posture.probes.target import ProbeTarget, failure

METHOD = "tls"
NAMES = ("tls.versions", "tls.ciphers", "tls.cert")
OLD = ("SSL 3.0", "TLS 1.0", "TLS 1.1")


def look(inputs: Inputs) -> list[Observation]:
    """Find the quiet ports that speak TLS, for the probes that come after, and judge each."""
    inputs.encrypted, found = set(), list[Observation]()
    for number in inputs.quiet:
        try:
            if speaks(inputs.target, number):
                inputs.encrypted.add(number)
                found += probe(inputs.target, number)
        except (LachanError, OSError) as error:
            found.append(failure("tls.versions", error, port=number))
    return found


def speaks(target: ProbeTarget, port: int) -> bool:
    """Tell whether a port answers a TLS 1.2 or 1.3 hello with TLS, be it an alert.

    Raises:
        SocketRefused: outside the engagement.
        ConnectFailed: tried in vain.
    """
    try:
        flights = (_try(target, port, VERSIONS[name]) for name in ("TLS 1.2", "TLS 1.3", "TLS 1.0"))
        return any(flight.hello or flight.alert is not None for flight in flights)
    except NotTls:
        return False


def probe(target: ProbeTarget, port: int) -> list[Observation]:
    """Look at one TLS port; one observation each for versions, suites and certificate."""
    found: list[Observation] = []
    certificate: bytes | None = None
    accepted: list[str] = []
    unclear: list[str] = []
    try:
        for name, version in VERSIONS.items():
            flight = _try(target, port, version)
            if flight.hello and flight.hello.version == version:
                accepted.append(name)
                certificate = certificate or flight.certificate
            elif flight.silent:
                unclear.append(name)
        found.append(_versions(target, port, accepted, unclear))
        found.append(_suites(target, port))
        if certificate is None and accepted:
            certificate = _fetch(target, port)
    except (SocketRefused, ConnectFailed, TimeoutError, OSError, NotTls) as error:
        seen = {observation.probe for observation in found}
        names = [name for name in NAMES if name not in seen]
        return found + [failure(name, error, port=port) for name in names]
    if certificate is not None:
        found.append(judge_certificate(certificate, port=port, address=target.host))
    return found


def _try(target: ProbeTarget, port: int, version: int, suites: tuple[int, ...] | None = None) -> Flight:
    """Send one hello and take in what comes back; hanging up on it is a refusal, silence is nothing.

    Raises:
        NotTls: it answers something else.
    """
    flight = Flight()
    with target.connect(port, method=METHOD) as sock:
        try:
            sock.sendall(client_hello(version, suites=suites, name=target.host))
            while not flight.done:
                sock.settimeout(target.left())
                data = sock.recv(16_384)
                if not data:
                    break
                target.take(len(data))
                flight.feed(data)
        except TimeoutError:
            flight.silent = True
        except ConnectionError:
            pass  # a server that hangs up on an old hello has refused it
    return flight


def _versions(target: ProbeTarget, port: int, accepted: list[str], unclear: list[str]) -> Observation:
    spoken = ", ".join(accepted) or "none"
    old = [name for name in accepted if name in OLD]
    if old:
        outcome, code, detail = Outcome.CONTRADICTS, "old_tls_accepted", f"accepts {', '.join(old)}"
    elif unclear:
        outcome, code, detail = Outcome.SILENT, "no_answer", f"no answer to {', '.join(unclear)}"
    elif accepted:
        outcome, code, detail = Outcome.CONFIRMS, "tls_current", f"accepts only {spoken}"
    else:
        outcome, code, detail = Outcome.ERROR, "probe_error", "speaks TLS, but accepted no version that was offered"
    return observe("tls.versions", outcome, code, detail, port=port, address=target.host, raw=f"accepted: {spoken}")


def _suites(target: ProbeTarget, port: int) -> Observation:
    flight = _try(target, port, VERSIONS["TLS 1.2"], suites=tuple(WEAK_SUITES))
    if flight.hello is None and not flight.silent:
        flight = _try(target, port, VERSIONS["TLS 1.0"], suites=tuple(WEAK_SUITES))
    if flight.silent:
        return observe("tls.ciphers", Outcome.SILENT, "no_answer", "no answer to a hello with weak suites", port=port)
    if flight.hello and flight.hello.suite in WEAK_SUITES:
        name = WEAK_SUITES[flight.hello.suite]
        return observe(
            "tls.ciphers", Outcome.CONTRADICTS, "weak_cipher", f"accepts {name}", port=port, address=target.host
        )
    return observe(
        "tls.ciphers", Outcome.CONFIRMS, "no_weak_cipher", f"refuses all {len(WEAK_SUITES)} weak suites offered",
        port=port, address=target.host,
    )  # fmt: skip


def _fetch(target: ProbeTarget, port: int) -> bytes | None:
    """Give the certificate through the platform's TLS library, unverified: it is looked at, not trusted."""
    context = unverified()
    try:
        with target.connect(port, method=METHOD) as sock, context.wrap_socket(sock) as wrapped:
            return wrapped.getpeercert(binary_form=True)
    except ssl.SSLError:
        return None


def unverified() -> ssl.SSLContext:
    """Give a context that speaks with any server: for looking at devices, never for trusting them."""
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)
    context.check_hostname = False
    context.verify_mode = ssl.CERT_NONE
    context.set_ciphers("ALL:@SECLEVEL=0")
    context.minimum_version = ssl.TLSVersion.MINIMUM_SUPPORTED
    return context


def judge_certificate(der: bytes, *, port: int, address: str) -> Observation:
    """Weigh a certificate: key size, signature algorithm, dates. All that is wrong stands in the detail."""
    try:
        certificate = x509.load_der_x509_certificate(der)
        faults = _key_faults(certificate) + _signature_faults(certificate) + _date_faults(certificate)
        raw = (
            f"subject: {certificate.subject.rfc4514_string()}\nserial: {certificate.serial_number:x}\n"
            f"sha256: {certificate.fingerprint(hashes.SHA256()).hex()}\nnot after: {certificate.not_valid_after_utc}"
        )
    except (ValueError, UnsupportedAlgorithm) as error:
        return observe(
            "tls.cert", Outcome.ERROR, "probe_error", f"certificate cannot be read: {type(error).__name__}",
            port=port, address=address,
        )  # fmt: skip
    if faults:
        detail = "; ".join(text for _, text in faults)
        return observe("tls.cert", Outcome.CONTRADICTS, faults[0][0], detail, port=port, address=address, raw=raw)
    return observe(
        "tls.cert", Outcome.CONFIRMS, "certificate_sound", "key, signature and dates are current",
        port=port, address=address, raw=raw,
    )  # fmt: skip


def _key_faults(certificate: x509.Certificate) -> list[tuple[str, str]]:
    key = certificate.public_key()
    if isinstance(key, rsa.RSAPublicKey) and key.key_size < 2048:
        return [("weak_key", f"RSA key of {key.key_size} bit")]
    if isinstance(key, ec.EllipticCurvePublicKey) and key.key_size < 256:
        return [("weak_key", f"elliptic curve of {key.key_size} bit")]
    return []


def _signature_faults(certificate: x509.Certificate) -> list[tuple[str, str]]:
    algorithm = certificate.signature_hash_algorithm
    if isinstance(algorithm, hashes.MD5 | hashes.SHA1):
        return [("weak_signature", f"signed with {algorithm.name}")]
    return []


def _date_faults(certificate: x509.Certificate) -> list[tuple[str, str]]:
    now = clock.now()
    if now > certificate.not_valid_after_utc:
        return [("certificate_expired", f"expired on {certificate.not_valid_after_utc:%Y-%m-%d}")]
    if now < certificate.not_valid_before_utc:
        return [("certificate_not_yet_valid", f"valid from {certificate.not_valid_before_utc:%Y-%m-%d} only")]
    return []


PROBE = Probe(METHOD, NAMES, look)
