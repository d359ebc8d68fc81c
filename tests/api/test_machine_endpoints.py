"""Every operation of the device door × every kind of wrong certificate, as authorisation.csv says (Must show 3).

The rows are compared with the app's routes, so that a new route without a row fails. ``in`` means: past the door,
neither 401 nor 403. A reason stands beside the status where the answer is a problem document; EST answers in plain text.
"""

import base64
import re
from datetime import timedelta

import httpx
import pytest
from cryptography.hazmat.primitives.serialization import Encoding

from api import routing
from api.device.app import build
from api.models import door_anchors
from api.status.app import build as build_status
from lachan import clock, trust
from lachan.runtime import Runtime
from tests.api.support import Authority, Town
from tests.api.table import rows
from tests.support.wait import until

CASES = (
    "good", "none", "foreign", "revoked", "suspended", "expired", "other_vendors_certificate", "forged_header", "contained", "twin",
)  # fmt: skip


def test_every_operation_of_the_device_door_has_a_row(rt: Runtime) -> None:
    assert set(rows("device")) == routing.operations(build(rt))


def test_the_status_door_offers_what_its_table_says_and_asks_nobody(rt: Runtime) -> None:
    """What stands there is public and signed by itself; a new route needs a row and a reason why it may be public."""
    table = rows("status")
    assert set(table) == routing.operations(build_status(rt))
    assert all(row["why_public"] for row in table.values())


def request_for(operation: str) -> tuple[str, str, dict[str, object]]:
    """Method, path and body with which an operation can be asked."""
    method, path = operation.split(" ")
    for name, value in (("{index}", "logs"), ("{name}", "timestamp.json"), ("{path:path}", "x"), ("{label}", "camera")):
        path = path.replace(name, value)
    path = re.sub(r"{\w+}", "0192a0a0-0000-7000-8000-000000000000", path)
    if method == "GET":
        return method, path, {}
    kind = (
        "application/pkcs10" if "/est/" in path else "application/x-ndjson" if "_bulk" in path else "application/json"
    )
    return method, path, {"content": b"", "headers": {"Content-Type": kind}}


def credentials(town: Town) -> dict[str, tuple[object, dict[str, str]]]:
    """For each case a certificate (or none) and headers."""
    camera, other = town.add_device("cam-1", vendor="acme"), town.add_device("cam-2", vendor="bolt")
    kept_out = town.add_device("cam-3", vendor="acme")
    good, bolt = town.authority, Authority(town.folder, "bolt")
    made = {
        "good": good.device(camera),
        "none": None,
        "foreign": Authority(town.folder, "foreign").device(camera),
        "revoked": good.device(other),
        "suspended": good.device(other),
        "expired": good.device(camera, start=timedelta(days=-9), end=timedelta(seconds=-5)),
        "other_vendors_certificate": bolt.device(camera),
        "forged_header": None,
        "contained": good.device(kept_out),
        "twin": good.device(camera).twin,
    }
    with town.rt.db.write() as connection:
        der = bolt.certificate.public_bytes(Encoding.DER)
        connection.execute(
            door_anchors.insert().values(fingerprint="b", vendor="bolt", certificate=der, added_at=clock.now())
        )
        signal = trust.Signal(
            device_id=kept_out.id, source="containment", answer=trust.Answer.QUARANTINE, reason="test", ref="1",
            since=clock.now(),
        )  # fmt: skip
        trust.set_signal(connection, signal)
        for reason in ("revoked", "suspended"):
            wrong = made[reason]
            assert wrong is not None
            trust.refuse_certificate(
                connection, keys=wrong.keys, device_id=other.id, reason=reason,
                until=wrong.certificate.not_valid_after_utc,
            )  # fmt: skip
    assert made["good"]
    header = base64.b64encode(made["good"].der).decode()
    forged = {"Client-Cert": f":{header}:", "X-Client-Cert": header, "X-SSL-Client-Verify": "SUCCESS"}
    return {case: (made[case], forged if case == "forged_header" else {}) for case in CASES}


def seen(answer: httpx.Response) -> str:
    reason = ""
    if answer.headers.get("content-type") == "application/problem+json" and answer.status_code in (401, 403):
        reason = f" {answer.json().get('reason', '')}".rstrip()
    return f"{answer.status_code}{reason}"


@pytest.mark.parametrize("case", CASES)
def test_the_door_answers_as_the_table_says(town: Town, case: str) -> None:
    credential, extra = credentials(town)[case]
    wrong: list[str] = []
    with town.open(), town.client("device", credential) as client:
        if (
            case == "other_vendors_certificate"
        ):  # the vendor's anchor is loaded: the reason is the vendor, not the issuer
            until(lambda: client.get("/device/v1/self").json().get("reason") == "other-vendor", timeout=5)
        for operation, row in rows("device").items():
            method, path, more = request_for(operation)
            more["headers"] = {**more.get("headers", {}), **extra}
            answer = client.request(method, path, **more)
            found, wanted = seen(answer), row[case]
            if method == "GET":
                head = client.head(path, **more)
                if (head.status_code, head.content) != (answer.status_code, b""):
                    wrong.append(f"HEAD of {operation}: {head.status_code}, {answer.status_code} with GET")
            if wanted == "in":
                fits = found[:3] not in ("401", "403")
            else:
                fits = found == wanted or ("/est/" in path and found == wanted[:3])
            if not fits:
                wrong.append(f"{operation}: {found}, wanted {wanted}")
    assert not wrong, "\n".join(wrong)
