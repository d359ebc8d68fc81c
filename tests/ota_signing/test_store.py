"""The store keeps whole files or nothing."""

import hashlib
import os
import random
import time

import pytest
from hypothesis import given
from hypothesis import strategies as st

from lachan.errors import Forbidden, Invalid, NotFound
from lachan.identity import Principal, PrincipalKind, Role
from ota_signing import artifacts, service
from ota_signing.errors import ArtifactBroken, ArtifactMissing, ArtifactTooLarge
from ota_signing.models import artifacts as rows
from ota_signing.statement import slug
from ota_signing.store import Store
from ota_signing.versions import Version

PLATFORM = Principal(kind=PrincipalKind.TOKEN, id="t", name="ci", roles=frozenset({Role.PLATFORM}))
ACME = Principal(kind=PrincipalKind.TOKEN, id="m", name="acme", roles=frozenset({Role.MANUFACTURER}), vendor="acme")


def left(data) -> list[str]:
    return sorted(str(p.relative_to(data)) for p in (data / "artifacts").rglob("*") if p.is_file())


def test_an_upload_is_kept_by_its_content_and_cannot_be_written(rt, data) -> None:
    made = service.upload(rt, ACME, [b"ab", b"", b"cd"], vendor="acme", name="fw.bin")
    assert made.sha256 == hashlib.sha256(b"abcd").hexdigest()
    assert made.length == 4
    path = Store(rt.settings).path(made.sha256)
    assert path.read_bytes() == b"abcd"
    assert path.stat().st_mode & 0o222 == 0
    assert left(data) == [f"artifacts/sha256/{made.sha256[:2]}/{made.sha256}"]


def test_the_same_bytes_again_are_the_same_artifact(rt) -> None:
    first = service.upload(rt, ACME, [b"abcd"], vendor="acme", name="a")
    assert service.upload(rt, PLATFORM, [b"ab", b"cd"], vendor="acme", name="b") == first
    assert service.upload(rt, PLATFORM, [b"abcd"], vendor="other", name="b").id != first.id


@pytest.mark.parametrize(
    ("chunks", "sha256", "error"),
    [
        ([], None, ArtifactBroken), ([b""], None, ArtifactBroken), ([b"abcd"], "0" * 64, ArtifactBroken),
        ([b"a" * 60, b"b" * 60], None, ArtifactTooLarge),
    ],
)  # fmt: skip
def test_what_is_refused_leaves_nothing(rt, data, chunks, sha256, error) -> None:
    small = type(rt)(rt.settings.model_copy(update={"ota_artifact_max_bytes": 100}), rt.db, rt.wiring)
    with pytest.raises(error):
        service.upload(small, ACME, chunks, vendor="acme", name="fw", sha256=sha256)
    assert left(data) == []
    with rt.db.read() as connection:
        assert connection.execute(rows.select()).all() == []


def test_an_upload_that_breaks_off_leaves_nothing(rt, data) -> None:
    def broken():
        yield b"half"
        raise ConnectionResetError

    with pytest.raises(ConnectionResetError):
        service.upload(rt, ACME, broken(), vendor="acme", name="fw")
    assert left(data) == []


def test_a_crash_leaves_a_left_over_that_is_swept(rt, data, settings) -> None:
    incoming = Store(settings).receive(limit=10)
    incoming.write(b"half")
    incoming._file.close()  # the process is gone here
    assert len(left(data)) == 1
    assert Store(settings).sweep() == 0
    for path in (data / "artifacts" / "incoming").iterdir():
        os.utime(path, (time.time() - 90_000,) * 2)
    artifacts.sweep(rt)
    assert left(data) == []


def test_who_may_upload(rt) -> None:
    with pytest.raises(NotFound):
        service.upload(rt, ACME, [b"x"], vendor="other", name="fw")
    auditor = Principal(kind=PrincipalKind.PERSON, id="a", name="a", roles=frozenset({Role.AUDITOR}), session="s")
    with pytest.raises(Forbidden):
        service.upload(rt, auditor, [b"x"], vendor="acme", name="fw")
    for bad in ("", " ", "x" * 101, "a\nb", "a\x1b[0m"):
        with pytest.raises(Invalid):
            service.upload(rt, PLATFORM, [b"x"], vendor=bad, name="fw")


def test_manufacturers_see_their_own(rt) -> None:
    mine = service.upload(rt, ACME, [b"x"], vendor="acme", name="fw")
    other = service.upload(rt, PLATFORM, [b"x"], vendor="other", name="fw")
    with rt.db.read() as connection:
        assert artifacts.find(connection, principal=ACME) == [mine]
        assert len(artifacts.find(connection, principal=PLATFORM)) == 2
        with pytest.raises(NotFound):
            artifacts.get(connection, other.id, principal=ACME)


@pytest.mark.parametrize("name", ["", "../../etc/passwd", "A" * 64, "ab" * 31, "/" * 64])
def test_only_digests_name_files(settings, name) -> None:
    with pytest.raises(ArtifactMissing):
        Store(settings).path(name)


ORDER = ["0.9", "1.0-dev", "1.0-alpha2", "1.0-beta1", "1.0-rc1", "1.0-rc2", "v1.0", "1.0-p1", "1.0.1", "1.9", "1.10"]


def test_versions_are_ordered_as_vendors_mean_them() -> None:
    assert sorted(random.Random(7).sample(ORDER, len(ORDER)), key=Version) == ORDER
    assert Version("1.0") == Version("v1.0.0")
    assert hash(Version("1.0")) == hash(Version("V1"))
    assert Version("5.7.3_build220112") < Version("5.7.3_build220201")


@given(st.lists(st.text("0123456789.rcabv-_", max_size=8), min_size=3, max_size=3))
def test_versions_are_ordered_totally(texts) -> None:
    a, b, c = sorted(map(Version, texts))
    assert a <= b <= c
    assert a <= c
    assert (a == c) <= (a == b)


@given(st.text(min_size=1, max_size=80), st.text(min_size=1, max_size=80))
def test_path_segments_are_safe_and_unambiguous(one, two) -> None:
    made = slug(one)
    assert made.isascii()
    assert "/" not in made
    assert "%" not in made
    assert not made.startswith(".")
    assert (slug(one) == slug(two)) == (one == two)
