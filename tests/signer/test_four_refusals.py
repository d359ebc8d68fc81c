"""Must show 11: a web worker that was taken over asks the signer; four refusals stand in the sealed, verified ledger.

It asks for a CA certificate, a name that is not ours, a release with one of two approvals, and a smaller tree.
"""

import json
from pathlib import Path

import pytest
from cryptography import x509
from cryptography.hazmat.primitives import serialization
from cryptography.hazmat.primitives.asymmetric import ec

from lachan import devices
from lachan.identity import system
from lachan.ledger import merkle, sealer, tree
from lachan.ledger.export import export
from lachan.ledger.note import Verifier
from lachan.ledger.verify import verify
from lachan.runtime import Runtime
from lachan.signer.errors import SignerRefused
from lachan.work import outbox
from ota_signing import service
from tests.ota_signing.conftest import House
from tests.support.wait import until


def refusals(rt: Runtime) -> list[outbox.StoredEvent]:
    with rt.db.read() as connection:
        return outbox.read(connection, names=("SignatureRefused",))


def test_four_refusals_in_the_ledger(signer_rt: Runtime, tmp_path: Path):
    rt, ask = signer_rt, signer_rt.signer.request
    house = House(rt, tmp_path, tmp_path)
    with rt.db.write() as connection:
        new = devices.NewDevice(name="cam-1", vendor="acme", model="cam1", serial_number="s1", site="north")
        device = devices.register(connection, new, actor=system("test"))
    release = house.propose(approvals_needed=2)
    service.approve(rt, house.person("an"), release.id, digest=release.digest)
    size = sealer.seal_now(rt)
    with rt.db.read() as connection:
        smaller = merkle.tree_root(size - 1, tree.StoredNodes(connection))
    public = ec.generate_private_key(ec.SECP256R1()).public_key()
    spki = public.public_bytes(serialization.Encoding.DER, serialization.PublicFormat.SubjectPublicKeyInfo)

    with pytest.raises(SignerRefused, match="'ca'"):
        ask("issue", profile="camera", device_id=device.id, spki=spki, ca=True)
    with pytest.raises(SignerRefused, match=r"evil\.example"):
        ask("issue", profile="server", names=["localhost", "evil.example"], spki=spki)
    with pytest.raises(SignerRefused, match="approval"):
        ask("release", release_id=release.id)
    with pytest.raises(SignerRefused, match="a smaller tree"):
        ask("checkpoint", size=size - 1, root=smaller, old_size=size, proof=[], fence=0)

    found = until(lambda: len(refusals(rt)) == 4 and refusals(rt))
    assert [stored.event.kind for stored in found] == ["issue", "issue", "release", "checkpoint"]
    assert {stored.actor for stored in found} == {"system:signer"}
    assert sealer.seal_now(rt) >= size + 4
    lines = list(export(rt))
    verify(lines, Verifier.parse((rt.settings.data / "ledger" / "key").read_text()))
    bodies = [json.loads(json.loads(line)["body"]) for line in lines if line.startswith(b'{"type":"event"')]
    assert [body["data"]["kind"] for body in bodies if body["name"] == "SignatureRefused"] == [
        "issue", "issue", "release", "checkpoint",
    ]  # fmt: skip

    honest = ask("issue", profile="camera", device_id=device.id, spki=spki)["certificate"]
    certificate = x509.load_der_x509_certificate(honest)
    assert certificate.extensions.get_extension_for_class(x509.BasicConstraints).value.ca is False
