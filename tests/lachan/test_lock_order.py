"""The order in which rows are locked is one sentence, the same wherever it stands."""

from __future__ import annotations

import re

from tests.house import tree

BEGINS = "device rows by id, kill switch"
SENTENCE = (
    "device rows by id, kill switch (shared), budgets sorted, containment; `FOR NO KEY UPDATE` (a foreign-key insert passes it),"
    " `FOR UPDATE` only where a unique column of `devices` changes; background pages use SKIP LOCKED."
)


def test_the_lock_order_is_the_same_sentence_everywhere() -> None:
    told = {}
    for path in tree.files():
        if path.suffix in {".py", ".md"} and path.name != "test_lock_order.py":
            text = re.sub(r"\s*\n\s*#?\s*", " ", path.read_text())
            if BEGINS in text:
                told[tree.name(path)] = text.count(BEGINS) == text.count(SENTENCE)
    assert told.keys() >= {"lachan/database.py", "docs/adr/0021-the-write-path-is-short-grouped-and-ordered.md"}
    assert [name for name, same in told.items() if not same] == []
