"""What the signer signs for firmware, and what it refuses whatever the rest of lachan says."""

import json
import subprocess

import pytest
import sqlalchemy as sa

from lachan.identity.models import people, sessions
from lachan.signer import siglog
from lachan.signer.errors import SignerRefused
from lachan.work import outbox
from lachan.work.outbox import events
from ota_signing import publishing, releases, service
from ota_signing.errors import DigestMoved, OwnProposal, WrongState
from ota_signing.models import approvals
from ota_signing.models import artifacts as artifact_rows
from ota_signing.models import releases as release_rows
from ota_signing.schemas import ReleaseState
from ota_signing.statement import ReleaseStatement
from ota_signing.store import Store
from tests.ota_signing.conftest import FIRMWARE, House
from tests.support.wait import until


def ask(house: House, release_id: str) -> dict:
    """What a taken-over web worker would do: ask the signer directly."""
    return house.rt.signer.request("release", release_id=release_id)


def refusals(house: House) -> list[tuple[str, str]]:
    """The signer's refusals in the ledger's table."""
    with house.rt.db.read() as connection:
        return [(e.event.kind, e.event.subject) for e in outbox.read(connection, names=("SignatureRefused",))]


def verify(house: House, content: bytes, signature: bytes, tmp_path) -> subprocess.CompletedProcess:
    """``openssl cms -verify`` as a device runs it, with default purpose checks."""
    (tmp_path / "fw").write_bytes(content)
    (tmp_path / "fw.p7s").write_bytes(signature)
    command = ["openssl", "cms", "-verify", "-binary", "-inform", "DER", "-in", str(tmp_path / "fw.p7s")]
    command += ["-content", str(tmp_path / "fw"), "-CAfile", str(house.root_ca), "-out", "/dev/null"]
    return subprocess.run(command, capture_output=True, text=True, check=False)


def change(house: House, statement: sa.Update | sa.Insert) -> None:
    """A change by hand, past all of lachan's own code."""
    with house.rt.db.write() as connection:
        connection.execute(statement)


def test_openssl_accepts_the_signature_and_rejects_one_changed_byte(house: House, tmp_path) -> None:
    release = house.approved()
    publishing.sign(house.rt, release.id)
    with house.rt.db.read() as connection:
        signature = releases.signature(connection, release.id, principal=house.platform)
    good = verify(house, FIRMWARE, signature, tmp_path)
    assert good.returncode == 0, good.stderr
    assert "erification successful" in good.stderr
    for at in (0, len(FIRMWARE) // 2, len(FIRMWARE) - 1):
        changed = bytearray(FIRMWARE)
        changed[at] ^= 1
        assert verify(house, bytes(changed), signature, tmp_path).returncode != 0
    broken = bytearray(signature)
    broken[-5] ^= 1
    assert verify(house, FIRMWARE, bytes(broken), tmp_path).returncode != 0


def test_one_of_two_approvals_signs_nothing(house: House) -> None:
    release = house.propose(approvals_needed=2)
    with pytest.raises(SignerRefused, match="0 of 2"):
        ask(house, release.id)
    service.approve(house.rt, house.person("an"), release.id, digest=release.digest)
    with pytest.raises(SignerRefused, match="1 of 2"):
        ask(house, release.id)
    with pytest.raises(WrongState):
        service.publish(house.rt, house.platform, release.id)
    change(house, release_rows.update().values(state=ReleaseState.APPROVED))  # the state column convinces nobody
    with pytest.raises(SignerRefused, match="1 of 2"):
        service.publish(house.rt, house.platform, release.id)
    with house.rt.db.read() as connection:
        assert connection.execute(sa.select(release_rows.c.signature)).scalar() is None
    outcomes = [line["outcome"] for _, line in siglog.read(house.rt.settings.signer_home / "signatures.log")]
    assert outcomes == ["refused"] * 3
    until(lambda: refusals(house) == [("release", release.id)] * 3, timeout=10)


def test_the_same_person_twice_is_one_approval(house: House) -> None:
    release = house.propose()
    for _ in range(2):
        release = service.approve(house.rt, house.person("an"), release.id, digest=release.digest)
    assert len(release.approvals) == 1
    assert release.state is ReleaseState.PROPOSED


def test_the_proposer_cannot_approve_nor_be_smuggled_in(house: House) -> None:
    artifact = service.upload(house.rt, house.platform, [FIRMWARE], vendor="acme", name="fw")
    an = house.person("an")
    release = house.propose()
    change(house, release_rows.update().values(proposer=an.label, proposer_id=an.id))
    with house.rt.db.read() as connection:
        moved = releases.get(connection, release.id, principal=house.platform)
    assert artifact.id == moved.artifact_id
    with pytest.raises(OwnProposal):
        service.approve(house.rt, an, release.id, digest=release.digest)
    change(house, release_rows.update().values(proposer=house.platform.label, proposer_id="t1"))
    for name in ("an", "binh"):
        service.approve(house.rt, house.person(name), release.id, digest=release.digest)
    change(house, release_rows.update().values(proposer_id=an.id))
    with pytest.raises(SignerRefused, match="proposer-approved"):
        ask(house, release.id)


CHANGES = {
    "sha256": {"sha256": "ab" * 32}, "length": {"length": 1}, "model": {"model": "cam2"}, "version": {"version": "9.9"},
    "fewer": {"approvals_needed": 1}, "downgrade": {"downgrade": True}, "proposer": {"proposer": "person:x"},
    "vendor": {"vendor": "evil"}, "path": {"target_path": "acme/cam1/1.0/firmware.bin"},
}  # fmt: skip


@pytest.mark.parametrize("values", CHANGES.values(), ids=CHANGES.keys())
def test_a_release_row_changed_by_hand_after_approval_is_refused(house: House, values: dict) -> None:
    release = house.approved()
    change(house, release_rows.update().values(**values))
    with pytest.raises(SignerRefused, match="changed"):
        ask(house, release.id)


def test_rows_changed_together_are_refused(house: House) -> None:
    """Whoever exchanges artifact, release and approvals alike still lacks the events that recorded the approvals."""
    release = house.approved()
    other = service.upload(house.rt, house.platform, [b"malware"], vendor="acme", name="fw")
    change(house, release_rows.update().values(artifact_id=other.id, sha256=other.sha256, length=other.length))
    with pytest.raises(SignerRefused, match="digest-changed"):
        ask(house, release.id)
    with house.rt.db.read() as connection:
        row = connection.execute(sa.select(release_rows)).mappings().one()
    digest = ReleaseStatement.of(row).digest
    change(house, release_rows.update().values(digest=digest))
    change(house, approvals.update().values(digest=digest))
    with pytest.raises(SignerRefused, match="approval-unrecorded"):
        ask(house, release.id)


def test_an_artifact_row_changed_by_hand_is_refused(house: House) -> None:
    release = house.approved()
    change(house, artifact_rows.update().values(sha256="cd" * 32))
    with pytest.raises(SignerRefused, match="artifact-changed"):
        ask(house, release.id)


@pytest.mark.parametrize("content", [b"X" + FIRMWARE[1:], FIRMWARE + b"X", FIRMWARE[:-1], b""], ids=len)
def test_an_artifact_changed_on_the_disk_after_approval_is_refused(house: House, content: bytes) -> None:
    release = house.approved()
    path = Store(house.rt.settings).path(release.sha256)
    path.chmod(0o600)
    path.write_bytes(content)
    with pytest.raises(SignerRefused, match="artifact-changed"):
        ask(house, release.id)
    path.unlink()
    with pytest.raises(SignerRefused, match="artifact-missing"):
        ask(house, release.id)


def test_approvals_made_by_hand_are_refused(house: House) -> None:
    release = house.propose()
    service.approve(house.rt, house.person("an"), release.id, digest=release.digest)
    with house.rt.db.read() as connection:
        row = dict(connection.execute(sa.select(approvals)).mappings().one())
    binh = house.person("binh")
    forged = {**row, "person_id": binh.id, "person": binh.label, "session": binh.session}
    change(house, approvals.insert().values(**forged))  # with somebody else's event
    with pytest.raises(SignerRefused, match="approval-unrecorded"):
        ask(house, release.id)


def test_approvers_must_be_people_with_the_right_and_a_session(house: House) -> None:
    release = house.approved()
    binh = house.person("binh")
    for values in ({"active": False}, {"roles": ["analyst"]}, {"name": "somebody"}):
        with house.rt.db.read() as connection:
            before = dict(connection.execute(sa.select(people).where(people.c.id == binh.id)).mappings().one())
        change(house, people.update().where(people.c.id == binh.id).values(**values))
        with pytest.raises(SignerRefused, match="person-unknown"):
            ask(house, release.id)
        change(house, people.update().where(people.c.id == binh.id).values(**before))
    assert ask(house, release.id)["digest"] == release.digest
    change(house, approvals.update().where(approvals.c.person_id == binh.id).values(session="another"))
    with pytest.raises(SignerRefused, match="session-unknown"):
        ask(house, release.id)
    change(house, approvals.update().where(approvals.c.person_id == binh.id).values(session=binh.session))
    change(house, sessions.update().values(ended_at=release.proposed_at))
    with pytest.raises(SignerRefused, match="session-unknown"):
        ask(house, release.id)


def test_the_signer_takes_no_other_words(house: House) -> None:
    release = house.approved()
    with pytest.raises(SignerRefused, match="does not know"):
        house.rt.signer.request("release", release_id=release.id, sha256="ab" * 32)
    with pytest.raises(SignerRefused, match="does not know"):
        house.rt.signer.request("tuf", targets={"evil": 1})
    with pytest.raises(SignerRefused, match="no-release"):
        ask(house, "none")


def test_an_approval_covers_the_digest_that_was_seen(house: House) -> None:
    release = house.propose()
    with pytest.raises(DigestMoved):
        service.approve(house.rt, house.person("an"), release.id, digest="0" * 64)


def test_every_step_is_in_the_outbox_once(house: House) -> None:
    release = house.published()
    publishing.sign(house.rt, release.id)
    service.publish(house.rt, house.platform, release.id)
    with house.rt.db.read() as connection:
        rows = connection.execute(sa.select(events.c.name, events.c.actor, events.c.body).order_by(events.c.seq)).all()
    ours = [(row.name, row.actor) for row in rows if row.name.startswith(("Artifact", "Release", "Firmware"))]
    assert ours == [
        ("ArtifactUploaded", "token:ci"), ("ReleaseProposed", "token:ci"), ("FirmwareApproved", "person:an"),
        ("FirmwareApproved", "person:binh"), ("FirmwareSigned", "system:signer"), ("FirmwarePublished", "token:ci"),
    ]  # fmt: skip
    signed = next(json.loads(row.body)["data"] for row in rows if row.name == "FirmwareSigned")
    assert signed["digest"] == release.digest
