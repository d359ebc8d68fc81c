"""Profiles are content: all of them load, hold against their schema and the linter, and mistakes name their file."""

import json
from pathlib import Path

import pytest

from pki import lint, profiles
from pki.errors import ProfileBroken, ProfileUnknown

SCHEMA = json.loads((profiles.FOLDER / "schema.json").read_text())


@pytest.mark.parametrize("path", sorted(p for p in profiles.FOLDER.glob("*.json") if p.name != "schema.json"), ids=str)
def test_every_profile_loads_and_passes_the_linter(path: Path) -> None:
    profile = profiles.read(path, SCHEMA)
    lint.lint(profile)
    assert profiles.get(profile.name) == profile


def write(folder: Path, name: str = "camera", **changes: object) -> Path:
    data = json.loads((profiles.FOLDER / "camera.json").read_text()) | changes
    path = folder / f"{name}.json"
    path.write_text(json.dumps(data))
    return path


@pytest.mark.parametrize(
    "changes",
    [
        {"key_usage": ["key_cert_sign"]},
        {"extended_key_usage": []},
        {"validity_days": 0},
        {"keys": ["p521"]},
        {"ca": True},
        {"names": "anything"},
        {"service": {"common_name": "x", "key": "pki-issuing"}},
        {"names": "service"},
    ],
)
def test_a_profile_that_breaks_the_schema_is_named(tmp_path: Path, changes: dict[str, object]) -> None:
    with pytest.raises(ProfileBroken, match=r"camera\.json") as caught:
        profiles.read(write(tmp_path, **changes), SCHEMA)
    assert caught.value.fields["file"] == "camera.json"


def test_no_json_names_the_line(tmp_path: Path) -> None:
    path = tmp_path / "camera.json"
    path.write_text('{\n "name": "camera",\n oops\n}')
    with pytest.raises(ProfileBroken) as caught:
        profiles.read(path, SCHEMA)
    assert caught.value.fields == {"file": "camera.json", "line": 3}


def test_file_and_profile_have_one_name(tmp_path: Path) -> None:
    with pytest.raises(ProfileBroken, match="holds the profile"):
        profiles.read(write(tmp_path, "other"), SCHEMA)


def test_the_linter_can_find_something(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(lint, "EXPECTED", ("nothing",))
    with pytest.raises(ProfileBroken, match="uri") as caught:
        lint.lint(profiles.get("camera"))
    assert caught.value.fields["findings"]
    with pytest.raises(ProfileBroken):
        lint.approve(tmp_path, profiles.load())
    assert not lint.is_approved(tmp_path, profiles.get("camera"))


def test_a_change_of_content_changes_the_digest(tmp_path: Path) -> None:
    assert profiles.read(write(tmp_path, validity_days=30), SCHEMA).digest != profiles.get("camera").digest


def test_unknown_profiles() -> None:
    with pytest.raises(ProfileUnknown):
        profiles.get("schema")
