"""Rewrites the table in docs/licences.md from what is installed: ``.venv/bin/python -m tests.house.licences``."""

from __future__ import annotations

from importlib.metadata import Distribution, distributions

from lachan.launch import environment, install
from tests.house import tree

DOCUMENT = tree.ROOT / "docs" / "licences.md"
BEGIN, END = "<!-- table -->", "<!-- /table -->"


def licence(distribution: Distribution) -> str:
    """What the distribution says of itself: SPDX expression, else classifiers, else the first words of its licence field."""
    about = distribution.metadata
    classifiers = [line.split(" :: ")[-1] for line in about.get_all("Classifier") or [] if line.startswith("License")]
    named = [line for line in classifiers if line not in ("OSI Approved", "DFSG approved")]
    return (
        about.get("License-Expression") or "; ".join(named) or (about.get("License") or "unknown").splitlines()[0][:60]
    )


def table() -> str:
    """One row for each locked distribution."""
    runtime, everything = (install.locked(tree.ROOT / lock) for lock in (environment.RUNTIME, environment.TEST))
    have = {install.normal(found.name): found for found in distributions()}
    rows = ["| distribution | licence | needed by |", "|---|---|---|"]
    for name in sorted(everything):
        said = licence(have[name]) if name in have else "not installed here"
        rows.append(f"| {name} | {said} | {'lachan' if name in runtime else 'tests and extras'} |")
    return "\n".join(rows)


def main() -> None:
    """Put the fresh table between the markers."""
    text = DOCUMENT.read_text()
    head, tail = text[: text.index(BEGIN) + len(BEGIN)], text[text.index(END) :]
    DOCUMENT.write_text(f"{head}\n{table()}\n{tail}")


if __name__ == "__main__":
    main()
