"""The demo as a newcomer runs it: it closes the loop; with any step's cause taken away it fails and names that step."""

import json
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

from lachan.demo.story import STEPS
from lachan.demo.words import WORDS

ROOT = Path(__file__).parents[2]
NAMES = [name for name, _ in STEPS]


def demo(*words: str) -> tuple[int, str]:
    done = subprocess.run(
        [sys.executable, "-m", "lachan", "demo", *words], cwd=ROOT, capture_output=True, text=True, check=False
    )
    return done.returncode, done.stdout or done.stderr


def document(text: str) -> Any:
    return json.loads(text.splitlines()[-1])


@pytest.mark.timeout(300)
def test_the_loop_closes_and_the_document_says_so() -> None:
    code, text = demo("--json")
    found = document(text)
    assert code == 0, text
    assert [step["name"] for step in found["steps"]] == NAMES
    assert all(step["ok"] and step["ms"] >= 0 for step in found["steps"])
    assert all(len(step["event"]) == 36 for step in found["steps"])
    assert found["event_to_refused_ms"] <= 1000
    assert found["event_to_alert_ms"] <= 1000
    assert found["ledger_verified"] is True
    assert found["tamper_detected"] is True
    assert found["failed"] is None
    assert found["missing"] == []


@pytest.mark.timeout(300)
@pytest.mark.parametrize("step", [NAMES[0], *(pytest.param(name, marks=pytest.mark.slow) for name in NAMES[1:])])
def test_a_broken_step_fails_the_demo_and_is_named(step: str) -> None:
    code, text = demo("--json", "--break-step", step)
    found = document(text)
    assert code == 1, text
    assert found["failed"] == step, text
    assert found["ok"] is False
    assert found["missing"] == NAMES[NAMES.index(step) + 1 :]
    assert not found["steps"][-1]["ok"]
    assert found["steps"][-1]["detail"]


def test_the_story_has_every_sentence_in_both_languages() -> None:
    assert WORDS["vi"].keys() == WORDS["en"].keys()
    assert set(NAMES) <= WORDS["en"].keys()
    assert all(WORDS["vi"][key] != WORDS["en"][key] for key in WORDS["en"])
