"""The content holds: all of it loads, is dated, tells what is unverified, and every mistake is named by file and line."""

from __future__ import annotations

import re
import shutil
from datetime import date
from pathlib import Path

import pytest

from posture import content
from posture.catalogue import Can, Primary, catalogue, load
from posture.errors import ContentInvalid
from posture.evaluate import IMPLEMENTED


def test_all_of_it_loads() -> None:
    found = catalogue()
    assert len(found.criteria) == 81
    assert len(found.device_criteria()) == 50
    assert len(found.instruments) == 14
    assert set(found.groups) == {str(n) for n in range(12)}
    assert re.fullmatch(r"[0-9a-f]{64}", found.hash)


def test_every_row_is_told_in_both_languages_and_says_where_it_stands() -> None:
    for row in catalogue().criteria.values():
        assert row.title["vi"]
        assert row.title["en"]
        assert row.id in (content.FOLDER / row.file).read_text(encoding="utf-8").splitlines()[row.line - 1]


def test_no_note_of_research_is_shown_to_an_auditor() -> None:
    for file in content.FOLDER.glob("*.yaml"):
        text = file.read_text(encoding="utf-8")
        assert "research_note" not in text, file
        assert "Seed" not in text, file


def test_what_is_unverified_is_told() -> None:
    rows = catalogue().criteria
    assert rows["CAM-8.2"].unverified == ("wording", "clause number", "status in EN 303 645 V2.1.1")
    assert rows["HN-X3"].unverified == ()
    assert all(row.unverified for row in rows.values() if row.confidence != "high")


@pytest.mark.parametrize(
    ("day", "asking"),
    [
        (date(2024, 5, 6), []),
        (date(2024, 5, 7), ["QD724/2024"]),
        (date(2025, 2, 15), ["QCVN135:2024/BTTTT", "QD724/2024"]),
        (date(2026, 6, 30), ["QCVN135:2024/BTTTT", "QD724/2024"]),
        (date(2026, 7, 1), ["QCVN11:2026/BCA", "QD724/2024"]),
    ],
)
def test_instruments_are_dated(day: date, asking: list[str]) -> None:
    found = catalogue()
    assert [i.id for i in found.in_force(found.criteria["CAM-1.1"], day)] == asking


def test_drafts_and_unseen_texts_never_hold() -> None:
    for row in catalogue().instruments.values():
        if row.status in ("draft", "text_not_seen") or row.valid_from is None:
            assert not row.holds(date(2030, 1, 1)), row.id


def test_what_can_only_be_refuted_by_network_is_marked_so() -> None:
    refute = {
        row.id for row in catalogue().device_criteria() if row.primary is Primary.NETWORK and row.can is Can.REFUTE
    }
    assert {"CAM-1.1", "CAM-5.2", "CAM-5.3", "CAM-6.2", "CAM-6.3"} <= refute


def test_every_probe_of_ours_answers_some_criterion() -> None:
    named = {probe for row in catalogue().device_criteria() for probe in row.probes}
    assert named >= IMPLEMENTED


def test_the_hash_covers_every_word(tmp_path: Path) -> None:
    folder = copy(tmp_path)
    assert load(folder).hash == catalogue().hash
    change(folder / "bindings.yaml", "is: random", "is: derived")
    assert load(folder).hash != catalogue().hash


@pytest.mark.parametrize(
    ("file", "before", "after", "line_has", "message"),
    [
        ("camera.yaml", "weight: 10", "weight: 11", "weight: 11", "maximum"),
        ("camera.yaml", "      primary: network\n", "      primary: guess\n", "primary: guess", "guess"),
        ("camera.yaml", "id: CAM-1.2", "id: CAM-1.1", "id: CAM-1.1", "twice"),
        ("camera.yaml", "- id: QD724/2024", "- id: QD999", "id: CAM-1.1", "no instrument QD999"),
        ("camera.yaml", "    weight: 10\n", "    weight: 10\n    weight: 9\n", "weight: 9", "twice"),
        ("bindings.yaml", "criterion: CAM-0.1", "criterion: CAM-0.9", "CAM-0.9", "no criterion"),
        ("instruments.yaml", "status: repealed", "status: gone", "status: gone", "gone"),
        ("credentials.yaml", "id: admin-admin,", "", "password: admin}", "required"),
        ("paths.yaml", "path: /config.bak", "path: config.bak", "path: config.bak", "match"),
        ("groups.yaml", "groups:", "groups: [", "", ""),
    ],
)
def test_mistakes_are_named_by_file_and_line(
    tmp_path: Path, file: str, before: str, after: str, line_has: str, message: str
) -> None:
    folder = copy(tmp_path)
    change(folder / file, before, after)
    with pytest.raises(ContentInvalid) as found:
        load(folder)
    assert found.value.fields["file"] == file
    assert message in found.value.detail
    assert found.value.detail.startswith(f"{file}:{found.value.fields['line']}: ")
    assert line_has in (folder / file).read_text(encoding="utf-8").splitlines()[found.value.fields["line"] - 1]


def copy(tmp_path: Path) -> Path:
    folder = tmp_path / "criteria"
    shutil.copytree(content.FOLDER, folder, ignore=shutil.ignore_patterns("*.py", "__pycache__"))
    return folder


def change(file: Path, before: str, after: str) -> None:
    text = file.read_text(encoding="utf-8")
    assert before in text
    file.write_text(text.replace(before, after, 1), encoding="utf-8")
