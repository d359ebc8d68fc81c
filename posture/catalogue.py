"""The catalogue: criteria as dated data (design decision 13), typed, with one hash over all that decides a verdict.

A criterion belongs to instruments, each with the days between which it holds; `Criterion.in_force` answers for a day.
What nobody could verify (wording, clause numbers, dates) is listed on the row and shown wherever the row is shown.
"""

from __future__ import annotations

import hashlib
import threading
from collections.abc import Mapping
from dataclasses import dataclass
from datetime import date
from enum import StrEnum
from functools import cache
from pathlib import Path
from typing import Any

import rfc8785

from posture import content
from posture.errors import ContentInvalid

_ONE = threading.Lock()
_FILES = {
    "instruments.yaml": "instruments", "groups.yaml": "groups", "camera.yaml": "camera", "system.yaml": "system",
    "bindings.yaml": "bindings", "credentials.yaml": "credentials", "paths.yaml": "paths",
}  # fmt: skip


class Can(StrEnum):
    """What the probes of a criterion can show at best."""

    REFUTE = "refute"
    CONFIRM_DECLARED = "confirm_declared"
    CONFIRM_AND_REFUTE = "confirm_and_refute"


class Primary(StrEnum):
    """Where the first evidence of a criterion comes from."""

    NETWORK = "network"
    RECORDS = "authenticated_or_telemetry"
    DOCUMENT = "document_machine"
    HUMAN = "human"


@dataclass(frozen=True)
class Instrument:
    """A law, regulation or standard.

    Attributes:
        valid_from: first day on which it holds; None when no source gave it.
        valid_until: first day on which it holds no longer; None for an open end.
        mandatory_from: first day on which it binds; None for a recommendation or unknown.
    """

    id: str
    status: str
    confidence: str
    valid_from: date | None
    valid_until: date | None
    mandatory_from: date | None
    by: str = ""
    authority: str = ""
    replaces: str = ""
    based_on: str = ""
    note: str = ""

    def holds(self, as_of: date) -> bool:
        """Tell whether it holds on that day; drafts and texts without a known date never do."""
        if self.valid_from is None or self.status in ("draft", "text_not_seen"):
            return False
        return self.valid_from <= as_of and (self.valid_until is None or as_of < self.valid_until)


@dataclass(frozen=True)
class CriterionCondition:
    """One line on a declaration: the dotted ``field`` and what must be true of it."""

    field: str
    test: str
    value: Any


@dataclass(frozen=True)
class Criterion:
    """One row of the catalogue.

    Attributes:
        instruments: (instrument id, clause) pairs; empty for rows that no dated instrument names.
        probes: names of what can speak to it, ours or not yet.
        declared: lines that a declaration must satisfy; empty when no declaration can answer it.
        not_applicable: lines that, declared, take the row out.
        unverified: what about this row nobody checked against the official text.
        line: where the row stands in ``file``.
    """

    id: str
    scope: str
    group: str
    title: Mapping[str, str]
    requirement: Mapping[str, str]
    instruments: tuple[tuple[str, str], ...]
    refs: Mapping[str, Any]
    primary: Primary
    can: Can
    intrusive: bool
    probes: tuple[str, ...]
    declared: tuple[CriterionCondition, ...]
    not_applicable: tuple[CriterionCondition, ...]
    weight: int
    blocking: bool
    confidence: str
    unverified: tuple[str, ...]
    file: str
    line: int


@dataclass(frozen=True)
class Catalogue:
    """All content of the room.

    Attributes:
        hash: SHA-256 (hex) of the canonical JSON (RFC 8785) of every file; stored with each assessment.
        document: what was hashed.
    """

    hash: str
    criteria: Mapping[str, Criterion]
    instruments: Mapping[str, Instrument]
    groups: Mapping[str, Mapping[str, Any]]
    pairs: tuple[Mapping[str, str], ...]
    paths: tuple[Mapping[str, str], ...]
    document: Mapping[str, Any]

    def device_criteria(self) -> tuple[Criterion, ...]:
        """Give the rows that are judged on one device."""
        return tuple(row for row in self.criteria.values() if row.scope == "device")

    def in_force(self, criterion: Criterion, as_of: date) -> tuple[Instrument, ...]:
        """Give the instruments that ask for a criterion on a day."""
        return tuple(self.instruments[i] for i, _ in criterion.instruments if self.instruments[i].holds(as_of))


def catalogue() -> Catalogue:
    """Give the catalogue that lies beside the code, loaded once, however many ask at once."""
    with _ONE:
        return _beside()


@cache
def _beside() -> Catalogue:
    return load(content.FOLDER)


def load(folder: Path) -> Catalogue:
    """Load all files of a folder.

    Raises:
        ContentInvalid: a file does not hold, an id stands twice, or a row names what does not exist (file and line).
    """
    document = {name: content.load(name, kind=kind, folder=folder) for name, kind in _FILES.items()}
    instruments = {row["id"]: _instrument(row) for row in document["instruments.yaml"]["instruments"]}
    groups = {row["id"]: row for row in document["groups.yaml"]["groups"]}
    bindings = {row["criterion"]: row for row in document["bindings.yaml"]["bindings"]}
    criteria: dict[str, Criterion] = {}
    for name in ("camera.yaml", "system.yaml"):
        where = content.lines(name, collection="criteria", key="id", folder=folder)
        for row in document[name]["criteria"]:
            line = where[row["id"]]
            _check(row, name, line, seen=criteria, instruments=instruments, groups=groups)
            criteria[row["id"]] = _criterion(row, bindings.get(row["id"], {}), name, line)
    where = content.lines("bindings.yaml", collection="bindings", key="criterion", folder=folder)
    for bound in bindings.keys() - criteria.keys():
        raise ContentInvalid(
            f"bindings.yaml:{where[bound]}: no criterion {bound}", file="bindings.yaml", line=where[bound]
        )
    return Catalogue(
        hash=hashlib.sha256(rfc8785.dumps(document)).hexdigest(),
        criteria=criteria, instruments=instruments, groups=groups,
        pairs=tuple(document["credentials.yaml"]["pairs"]), paths=tuple(document["paths.yaml"]["paths"]),
        document=document,
    )  # fmt: skip


def _check(
    row: Mapping[str, Any], name: str, line: int, *, seen: Mapping[str, Any], instruments: Mapping[str, Any],
    groups: Mapping[str, Any],
) -> None:  # fmt: skip
    problem = ""
    if row["id"] in seen:
        problem = f"{row['id']} stands twice"
    elif row.get("group") is not None and row["group"] not in groups:
        problem = f"no group {row['group']}"
    else:
        unknown = [entry["id"] for entry in row.get("instruments", ()) if entry["id"] not in instruments]
        if unknown:
            problem = f"no instrument {unknown[0]}"
    if problem:
        raise ContentInvalid(f"{name}:{line}: {problem}", file=name, line=line)


def _instrument(row: Mapping[str, Any]) -> Instrument:
    dates = {key: _day(row[key]) for key in ("valid_from", "valid_until", "mandatory_from")}
    return Instrument(**{**row, **dates})


def _day(text: str | None) -> date | None:
    return date.fromisoformat(text) if text else None


def _criterion(row: Mapping[str, Any], binding: Mapping[str, Any], file: str, line: int) -> Criterion:
    automation = row.get("automation", binding)
    return Criterion(
        id=row["id"], scope=row["scope"], group=row.get("group", ""), title=row["title"],
        requirement=row.get("requirement", row["title"]),
        instruments=tuple((entry["id"], entry["clause"]) for entry in row.get("instruments", ())),
        refs=row.get("refs") or {"ref": row.get("ref", "")},
        primary=Primary(automation.get("primary", "human")), can=Can(automation.get("can", "confirm_declared")),
        intrusive=bool(automation.get("intrusive") or automation.get("credentialed")),
        probes=tuple(row.get("probes", binding.get("probes", ()))),
        declared=_conditions(binding.get("declared", ())),
        not_applicable=_conditions(binding.get("not_applicable", ())),
        weight=row.get("weight", 1), blocking=row.get("blocking", False), confidence=row["confidence"],
        unverified=_unverified(row), file=file, line=line,
    )  # fmt: skip


def _conditions(rows: Any) -> tuple[CriterionCondition, ...]:
    found = []
    for row in rows:
        test, value = next((key, value) for key, value in row.items() if key != "field")
        found.append(CriterionCondition(row["field"], test, value))
    return tuple(found)


def _unverified(row: Mapping[str, Any]) -> tuple[str, ...]:
    open_points = []
    if row["confidence"] != "high":
        open_points.append("wording")
    if row.get("clause_confidence", "high") != "high":
        open_points.append("clause number")
    if "etsi_en_303_645" in row.get("refs", {}):
        open_points.append("status in EN 303 645 V2.1.1")
    return tuple(open_points)
