"""What an assessed device sends cannot cost more than its length: headers and evidence made against patterns."""

from __future__ import annotations

import pytest

from lachan.net.answer import HttpAnswer
from posture.probes import login
from posture.probes.observation import _SECRETS, redact
from posture.probes.probe import MOST, FrontPage
from posture.probes.web import _VERSION
from tests.house.test_patterns import STRAIGHT, growth


def challenges(header: str) -> tuple[str, ...]:
    answer = HttpAnswer(401, (("www-authenticate", header),), b"", False, "", 0.0)
    return FrontPage("http", 80, answer).challenges


@pytest.mark.parametrize(
    "pump", ["1", "a", ",a", " ", "a b=,", '"', 'a="', "a=1,", "Digest a=1, ", "1.", "-", "a b=c, ", "=", "/"]
)
def test_a_header_costs_its_length(pump: str) -> None:
    def hostile(n: int) -> str:
        return "Digest " + pump * (n // len(pump)) + "\x00"

    assert growth(_VERSION.search, hostile, 16_000) < STRAIGHT
    assert growth(login._parameters, hostile, 16_000) < STRAIGHT
    assert growth(challenges, hostile, 16_000) < STRAIGHT
    page = FrontPage("http", 80, HttpAnswer(401, (("www-authenticate", hostile(60_000)),), b"", False, "", 0.0))
    assert growth(lambda _: login._challenge(page), hostile, 16_000) < STRAIGHT
    assert len(page.challenges) <= MOST


@pytest.mark.parametrize(
    "pump",
    ["password", "-----BEGIN A", "-----BEGIN PRIVATE KEY-----", "-----END ", 'password="', "a:", "cookie:", "a:b:1:1:",
     "secret ", "psk=", "token-", "a:$", "\n", 'nonce="', "x"],
)  # fmt: skip
def test_evidence_costs_its_length(pump: str) -> None:
    for lead in ("", "-----BEGIN PRIVATE KEY-----", 'password="', "root:"):
        for pattern, replacement in _SECRETS:  # what is redacted is cut first; the patterns do not depend on that
            text = lambda n, lead=lead: lead + pump * (n // len(pump))  # noqa: E731
            assert growth(lambda one, p=pattern, r=replacement: p.sub(r, one), text, 8_000) < STRAIGHT
    assert len(redact(pump * 100_000)) <= 1024


def test_a_secret_with_a_vietnamese_name_is_not_kept() -> None:
    assert "s3cr3t" not in redact("password_máy_chủ=s3cr3t")
