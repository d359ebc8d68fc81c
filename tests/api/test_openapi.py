"""The OpenAPI reads well and tells the truth: schemathesis calls every operation with what the schema allows."""

import json
import re
import warnings
from typing import Any

import pytest
import schemathesis
from hypothesis import HealthCheck, Phase, given, settings
from schemathesis.checks import not_a_server_error
from schemathesis.specs.openapi.checks import (
    content_type_conformance,
    response_schema_conformance,
    status_code_conformance,
)

from api import routing
from api.device.app import build as build_device
from api.people.app import build
from api.status.app import build as build_status
from lachan.identity import Role
from lachan.runtime import Runtime
from tests.api.support import Town
from tests.api.test_load import serving

CHECKS = (not_a_server_error, content_type_conformance, response_schema_conformance, status_code_conformance)
EXAMPLES = 2


def documented(rt: Runtime) -> dict[str, Any]:
    return json.loads(json.dumps(build(rt).openapi()))


def test_all_doors_stand_in_one_document(rt: Runtime) -> None:
    """Whatever a door answers is there, with the address it is asked at; what stands for a name in its path is described."""
    paths = documented(rt)["paths"]
    for app, url in ((build_device(rt), rt.settings.device_url), (build_status(rt), rt.settings.status_url)):
        for operation in routing.operations(app):
            method, path = operation.split()
            path = path.replace(":path}", "}")
            item = paths[path]
            assert item[method.lower()]["description"], operation
            if not path.endswith("/_bulk"):  # at both doors
                assert [server["url"] for server in item["servers"]] == [url], operation
            described = {found["name"] for found in item[method.lower()].get("parameters", ()) if found["in"] == "path"}
            assert described == set(re.findall(r"{(\w+)}", path)), operation


def test_every_operation_says_what_it_does(rt: Runtime) -> None:
    document = documented(rt)
    names, tags = [], {tag["name"] for tag in document["tags"]}
    for path, operations in document["paths"].items():
        for method, operation in operations.items():
            if method == "servers":
                continue
            here = f"{method} {path}"
            names.append(operation["operationId"])
            assert operation.get("summary") and operation.get("description"), here
            assert set(operation.get("tags", [])) <= tags and operation.get("tags"), f"{here}: {operation.get('tags')}"
            for status, answer in operation["responses"].items():
                if status >= "4":
                    assert list(answer["content"]) == ["application/problem+json"], here
    assert len(names) == len(set(names)), sorted(name for name in names if names.count(name) > 1)
    assert set(document["components"]["schemas"]["Problem"]["required"]) >= {"title", "status", "detail", "code"}


@pytest.mark.filterwarnings("ignore::DeprecationWarning")  # schemathesis and what it drags along
def test_every_operation_answers_as_its_schema_says(town: Town, rt: Runtime) -> None:
    """Bounded: a few examples for each operation, the same ones every time."""
    camera = town.add_device("cam-1")
    headers = {"Authorization": f"Bearer {town.token(Role.ADMIN)}"}
    wrong: list[str] = []
    with serving(build(rt), 8) as port:
        documented_here = documented(rt)["paths"]
        base = f"http://127.0.0.1:{port}"
        schema = schemathesis.openapi.from_dict(documented(rt))
        schema.config.update(base_url=base)

        for result in schema.get_all_operations():
            operation = result.ok()
            if "servers" in documented_here[operation.path]:
                continue  # asked at another door: tests/api/test_machine_endpoints.py

            @settings(
                max_examples=EXAMPLES, deadline=None, derandomize=True, database=None, phases=[Phase.explicit, Phase.generate],
                suppress_health_check=list(HealthCheck),
            )  # fmt: skip
            @given(case=operation.as_strategy())
            def run(case: schemathesis.Case) -> None:
                if "device_id" in (case.path_parameters or {}):
                    case.path_parameters["device_id"] = camera.id
                # Elasticsearch's clients expect Elasticsearch's errors, not problem documents.
                checks = CHECKS[:1] if case.path.endswith("/_bulk") else CHECKS
                with warnings.catch_warnings():
                    warnings.simplefilter("ignore")
                    case.call_and_validate(headers=headers, checks=list(checks), timeout=20)

            try:
                run()
            except (Exception, BaseExceptionGroup) as error:  # all are wanted, not the first
                wrong.append(f"{operation.label}: {error}")
    assert not wrong, "\n\n".join(found[:1500] for found in wrong)
