"""``http-api`` steps: one request to a target on the operator's allow-list, through ``lachan.net.fetch``.

The URL and the method are constants of the signed playbook; variables enter only as whole JSON values of the body. Every
request carries an ``Idempotency-Key`` made of run and step, the same in every attempt. Redirects are not followed. Limits:
JSON bodies, 64 KiB answers, no credentials (the peer knows us by network or TLS terminator).
"""

from __future__ import annotations

import json
from dataclasses import dataclass
from datetime import timedelta
from typing import TYPE_CHECKING, Any

from lachan.errors import Invalid
from lachan.net.fetch import http_request
from lachan.net.sockets import ConnectFailed, SocketRefused, operator_scope
from soar_playbooks.cacao.model import HttpCommand, Step
from soar_playbooks.cacao.variables import substitute
from soar_playbooks.errors import OutcomeUnknown, StepFailed
from soar_playbooks.runs.journal import Run

if TYPE_CHECKING:
    from lachan.runtime import Runtime


@dataclass(frozen=True)
class HttpStepRequest:
    """What will be sent; ``key`` is the idempotency key."""

    method: str
    url: str
    body: bytes
    key: str

    def shown(self) -> dict[str, Any]:
        """Give what the journal keeps."""
        return {"http": f"{self.method} {self.url}", "body": self.body.decode("utf-8"), "key": self.key}


def prepare(run: Run, step: Step, command: HttpCommand) -> HttpStepRequest:
    """Make the request of a step with the run's variables in it."""
    return request(command, substitute(command.content, run.variables), key=f"{run.id}.{step.id}")


def request(command: HttpCommand, content: Any, *, key: str) -> HttpStepRequest:
    """Make the request of a command with its content, all variables put in."""
    body = b"" if content is None else json.dumps(content, ensure_ascii=False, sort_keys=True).encode()
    return HttpStepRequest(command.method, command.url, body, key)


def again(intent: dict[str, Any]) -> HttpStepRequest:
    """Make the request that a journal's intent tells of: the same bytes under the same key, whatever came since."""
    method, _, url = str(intent["http"]).partition(" ")
    return HttpStepRequest(method, url, str(intent["body"]).encode(), str(intent["key"]))


def send(rt: Runtime, asked: HttpStepRequest, *, timeout: float) -> dict[str, Any]:
    """Send it once.

    Args:
        rt: for the allow-list.
        asked: what to send.
        timeout: seconds for everything.

    Returns:
        ``status`` and, if the answer is a JSON object, its fields.

    Raises:
        StepFailed: it surely had no effect, or the peer refused it (status 3xx or 4xx).
        OutcomeUnknown: it may have had an effect (no answer, or status 5xx).
    """
    scope = operator_scope(rt.settings.outgoing_allow)
    headers = {"Content-Type": "application/json", "Idempotency-Key": asked.key}
    try:
        answer = http_request(
            scope, asked.method, asked.url, timeout=timeout, method="http", headers=headers, body=asked.body
        )
    except (SocketRefused, Invalid) as error:
        raise StepFailed(f"{asked.method} {asked.url}: {error.detail}") from error
    except ConnectFailed as error:
        if error.reason == "refused":
            raise StepFailed(f"{asked.method} {asked.url}: {error.detail}") from error
        raise OutcomeUnknown(f"{asked.method} {asked.url}: {error.detail}") from error
    if answer.status >= 500:
        raise OutcomeUnknown(f"{asked.method} {asked.url}: status {answer.status}")
    if not 200 <= answer.status < 300:
        raise StepFailed(f"{asked.method} {asked.url}: status {answer.status}")
    return {**_fields(answer.body), "status": answer.status}


def pause(attempt: int) -> timedelta:
    """How long to wait before the next attempt."""
    return timedelta(seconds=min(2.0**attempt, 60.0))


def _fields(body: bytes) -> dict[str, Any]:
    """Give the answer's fields, if every database can keep them; the effect is known either way and must stay known."""
    try:
        found = json.loads(body)
        kept = json.dumps(found, allow_nan=False)
    except (ValueError, RecursionError):
        return {}
    return found if isinstance(found, dict) and "\\u0000" not in kept else {}
