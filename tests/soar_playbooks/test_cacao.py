"""Must show 10, and the rest of the format: what is refused when a playbook is loaded, each with file and step."""

import copy
import json
from datetime import timedelta
from pathlib import Path
from typing import Any

import jsonschema
import pytest

from lachan import clock
from lachan.errors import LachanError
from lachan.runtime import Runtime
from soar_playbooks import playbooks as library
from soar_playbooks.cacao import conditions, jss, reader
from soar_playbooks.cacao.lint import INPUTS
from soar_playbooks.cacao.model import EXTENSION, Variable, VariableType
from soar_playbooks.cacao.variables import references, substitute
from soar_playbooks.errors import (
    ConditionInvalid,
    PlaybookInvalid,
    PlaybookRevoked,
    PlaybookRolledBack,
    PlaybookUnsigned,
    SignatureInvalid,
    SignerRevoked,
    SignerUntrusted,
    UnknownCommandType,
    UnknownStepType,
)
from soar_playbooks.models import playbook_versions, playbooks, runs
from tests.soar_playbooks.support import (
    ADMIN,
    camera_document,
    decision,
    http_action,
    load,
    new_device,
    new_key,
    one_run,
    raise_alert,
    rows,
    signed,
    told,
    trusted_key,
    with_target,
    work,
)

FOLDER = Path(__file__).parents[2] / "soar_playbooks" / "playbooks"


def step(document: dict[str, Any], prefix: str) -> str:
    return next(name for name in document["workflow"] if name.startswith(prefix))


def load_text(rt: Runtime, text: str) -> library.Loaded:
    with rt.db.write() as connection:
        return library.load(connection, ADMIN, text=text, file="x.cacao.json")


# content


@pytest.mark.parametrize("path", sorted(FOLDER.glob("*.json")), ids=lambda path: path.name)
def test_every_playbook_of_the_repository_is_valid(path: Path) -> None:
    assert reader.read(path.read_text(), file=str(path), verbs=library.verb_facts()).policy.triggers


def test_the_folder_of_playbooks_is_not_empty_and_the_schema_is_a_schema() -> None:
    assert list(FOLDER.glob("*.cacao.json"))
    jsonschema.Draft202012Validator.check_schema(reader.schema())


# signature, trust list, versions


def test_one_changed_byte_is_refused(rt: Runtime) -> None:
    text = signed(camera_document(), trusted_key(rt))
    changed = text.replace("The device could not be", "The device could now be")
    assert changed != text
    with pytest.raises(SignatureInvalid) as caught:
        load_text(rt, changed)
    assert caught.value.fields["file"] == "x.cacao.json"
    assert caught.value.fields["step"].startswith("start--")
    assert rows(rt, playbooks) == []


def test_any_changed_signature_field_is_refused(rt: Runtime) -> None:
    document = json.loads(signed(camera_document(), trusted_key(rt)))
    another = jss.public_pem(new_key().public_key())
    changes = {
        "signee": "Somebody else",
        "created": "2026-01-02T03:04:05.000Z",
        "id": f"jss--{INPUT_ID}",
        "public_key": another,
    }
    for name, value in changes.items():
        other = copy.deepcopy(document)
        assert other["signatures"][0][name] != value
        other["signatures"][0][name] = value
        with pytest.raises((SignatureInvalid, PlaybookInvalid)):
            load_text(rt, json.dumps(other))


INPUT_ID = "00000000-0000-4000-8000-000000000000"


def test_unsigned_is_refused(rt: Runtime) -> None:
    with pytest.raises(PlaybookUnsigned) as caught:
        load_text(rt, json.dumps(camera_document()))
    assert caught.value.fields["file"] == "x.cacao.json"


def test_an_untrusted_signer_is_refused_also_with_its_key_inside(rt: Runtime) -> None:
    trusted_key(rt)
    with pytest.raises(SignerUntrusted) as caught:
        load_text(rt, signed(camera_document(), new_key()))
    assert caught.value.fields["step"].startswith("start--")


def test_a_thief_of_the_thumbprint_is_refused(rt: Runtime) -> None:
    honest = trusted_key(rt)
    document = jss.sign(camera_document(), new_key(), signee="mallory")
    document["signatures"][0]["thumbprint"] = jss.thumbprint(honest.public_key())
    with pytest.raises(SignatureInvalid):
        load_text(rt, json.dumps(document))


def test_a_revoked_signer_is_refused_at_load_and_at_start(rt: Runtime) -> None:
    load(rt)
    (version,) = rows(rt, playbook_versions)
    with rt.db.write() as connection:
        library.revoke_signer(connection, ADMIN, thumbprint=version["signer"])
    with pytest.raises(SignerRevoked):
        load_text(rt, version["document"])
    device = new_device(rt)
    raise_alert(rt, device)
    work(rt)
    assert rows(rt, runs) == []
    assert decision(rt, device) == "allow"
    (refused,) = told(rt, "PlaybookRefused")
    assert refused.reason.startswith("signer-revoked")


def test_a_revoked_signer_cannot_come_back(rt: Runtime) -> None:
    key = trusted_key(rt)
    with rt.db.write() as connection:
        library.revoke_signer(connection, ADMIN, thumbprint=jss.thumbprint(key.public_key()))
    with pytest.raises(SignerRevoked), rt.db.write() as connection:
        library.trust_signer(connection, ADMIN, pem=jss.public_pem(key.public_key()), name="again")


def later(document: dict[str, Any], **delta: int) -> dict[str, Any]:
    moved = clock.parse(document["modified"]) + timedelta(**delta)
    return {**document, "modified": clock.iso(moved)}


def test_a_rolled_back_version_is_refused_at_load(rt: Runtime) -> None:
    key, old = trusted_key(rt), camera_document()
    load_text(rt, signed(later(old, hours=1), key))
    with pytest.raises(PlaybookRolledBack) as caught:
        load_text(rt, signed(old, key))
    assert caught.value.fields["file"] == "x.cacao.json"
    assert caught.value.fields["newest"] == later(old, hours=1)["modified"]


def test_the_same_version_with_other_content_is_refused(rt: Runtime) -> None:
    key, document = trusted_key(rt), camera_document()
    load_text(rt, signed(document, key))
    with pytest.raises(PlaybookRolledBack):
        load_text(rt, signed({**document, "description": "another"}, key))


def test_a_row_set_back_by_hand_starts_nothing(rt: Runtime) -> None:
    key, old = trusted_key(rt), camera_document()
    before = load_text(rt, signed(old, key))
    load_text(rt, signed(later(old, hours=1), key))
    with rt.db.write() as connection:
        library.set_mode(connection, ADMIN, playbook_id=before.id, mode=library.Mode.ENFORCE)
        connection.execute(playbooks.update().values(digest=before.digest, version=before.version))
    device = new_device(rt)
    raise_alert(rt, device)
    work(rt)
    assert rows(rt, runs) == []
    assert told(rt, "PlaybookRefused")[0].reason.startswith("playbook-rolled-back")
    assert decision(rt, device) == "allow"


def test_stored_bytes_changed_by_hand_start_nothing(rt: Runtime) -> None:
    load(rt)
    (version,) = rows(rt, playbook_versions)
    changed = version["document"].replace('"level": "quarantine"', '"level": "degrade"', 1)
    assert changed != version["document"]
    with rt.db.write() as connection:
        connection.execute(playbook_versions.update().values(document=changed))
    device = new_device(rt)
    raise_alert(rt, device)
    work(rt)
    assert rows(rt, runs) == []
    assert len(told(rt, "PlaybookRefused")) == 1
    assert decision(rt, device) == "allow"


def test_a_run_that_waits_is_refused_when_its_playbook_no_longer_holds(rt: Runtime) -> None:
    from soar_playbooks.runs import decisions
    from tests.soar_playbooks.support import AN

    load(rt, mode=library.Mode.PROPOSE)
    device = new_device(rt)
    raise_alert(rt, device)
    work(rt)
    with rt.db.write() as connection:
        (version,) = rows(rt, playbook_versions)
        library.revoke_signer(connection, ADMIN, thumbprint=version["signer"])
        decisions.approve(rt, connection, AN, run_id=one_run(rt)["id"])
    work(rt)
    assert one_run(rt)["outcome"] == "refused"
    assert decision(rt, device) == "allow"


def test_a_playbook_revoked_by_its_author_is_refused(rt: Runtime) -> None:
    with pytest.raises(PlaybookRevoked):
        load_text(rt, signed({**camera_document(), "revoked": True}, trusted_key(rt)))


def test_a_new_playbook_begins_in_propose_and_only_an_admin_switches_it(rt: Runtime) -> None:
    from lachan.errors import Forbidden
    from tests.soar_playbooks.support import AN

    loaded = load_text(rt, signed(camera_document(), trusted_key(rt)))
    assert loaded.mode is library.Mode.PROPOSE
    with pytest.raises(Forbidden), rt.db.write() as connection:
        library.set_mode(connection, AN, playbook_id=loaded.id, mode=library.Mode.ENFORCE)
    with rt.db.write() as connection:
        library.set_mode(connection, ADMIN, playbook_id=loaded.id, mode=library.Mode.ENFORCE)
    (changed,) = told(rt, "PlaybookModeChanged")
    assert (changed.before, changed.after) == ("propose", "enforce")


def test_a_new_version_keeps_the_mode(rt: Runtime) -> None:
    key = trusted_key(rt)
    loaded = load_text(rt, signed(camera_document(), key))
    with rt.db.write() as connection:
        library.set_mode(connection, ADMIN, playbook_id=loaded.id, mode=library.Mode.ENFORCE)
    assert load_text(rt, signed(later(camera_document(), days=1), key)).mode is library.Mode.ENFORCE


# the format: each with file, step and line


def _foreign_step(document: dict[str, Any]) -> str:
    name = f"parallel--{INPUT_ID}"
    document["workflow"][name] = {"type": "parallel", "next_steps": []}
    return name


def _foreign_command(document: dict[str, Any]) -> str:
    name = step(document, "action")
    document["workflow"][name]["commands"] = [{"type": "bash", "command": "reboot"}]
    return name


def _dangling(document: dict[str, Any]) -> str:
    name = step(document, "action")
    document["workflow"][name]["on_success"] = f"end--{INPUT_ID}"
    return name


def _unreachable(document: dict[str, Any]) -> str:
    name = f"end--{INPUT_ID}"
    document["workflow"][name] = {"type": "end"}
    return name


def _cycle(document: dict[str, Any]) -> str:
    name = step(document, "if-condition")
    document["workflow"][name]["on_false"] = name
    return name


def _undefined_variable(document: dict[str, Any]) -> str:
    name = step(document, "action")
    document["workflow"][name]["commands"][0]["parameters"]["device_id"] = "__nobody__:value"
    return name


def _undefined_in_condition(document: dict[str, Any]) -> str:
    name = step(document, "if-condition")
    document["workflow"][name]["condition"] = "__nobody__:value = 'x'"
    return name


def _no_undo(document: dict[str, Any]) -> str:
    name = step(document, "action")
    del document["workflow"][name]["step_extensions"]
    return name


def _wrong_undo(document: dict[str, Any]) -> str:
    name = step(document, "action")
    document["workflow"][name]["step_extensions"][EXTENSION]["undo"] = {"nothing": "nobody will ever want it back"}
    return name


def _unknown_verb(document: dict[str, Any]) -> str:
    name = step(document, "action")
    document["workflow"][name]["commands"][0]["command"] = "world.end"
    return name


def _unknown_parameter(document: dict[str, Any]) -> str:
    name = step(document, "action")
    document["workflow"][name]["commands"][0]["parameters"]["run_id"] = "of-somebody-else"
    return name


def _splice(document: dict[str, Any]) -> str:
    name = step(document, "action")
    document["workflow"][name]["commands"][0]["parameters"]["reason"] = "because of __device__:value"
    return name


def _evict(document: dict[str, Any]) -> str:
    name = step(document, "action")
    document["workflow"][name]["commands"][0]["parameters"]["level"] = "evict"
    return name


def _level_by_variable(document: dict[str, Any]) -> str:
    name = step(document, "action")
    document["workflow"][name]["commands"][0]["parameters"]["level"] = "__outcome__:value"
    return name


def _above_own_level(document: dict[str, Any]) -> str:
    document["playbook_extensions"][EXTENSION]["level"] = "degrade"
    return step(document, "action")


def _no_exit(document: dict[str, Any]) -> str:
    name = step(document, "action")
    del document["workflow"][name]["on_success"], document["workflow"][name]["on_failure"]
    return name


def _both_exits(document: dict[str, Any]) -> str:
    name = step(document, "action")
    document["workflow"][name]["on_completion"] = step(document, "end")
    return name


def _unknown_agent(document: dict[str, Any]) -> str:
    name = step(document, "action")
    document["workflow"][name]["agent"] = f"organization--{INPUT_ID}"
    return name


def _constant_output(document: dict[str, Any]) -> str:
    name = step(document, "action")
    document["workflow"][name]["out_args"] = ["__device__"]
    return name


def _unknown_field(document: dict[str, Any]) -> str:
    name = step(document, "action")
    document["workflow"][name]["delay"] = 5
    return name


BROKEN: dict[str, tuple[Any, type[LachanError]]] = {
    "step type": (_foreign_step, UnknownStepType),
    "command type": (_foreign_command, UnknownCommandType),
    "dangling": (_dangling, PlaybookInvalid),
    "unreachable": (_unreachable, PlaybookInvalid),
    "cycle": (_cycle, PlaybookInvalid),
    "undefined variable": (_undefined_variable, PlaybookInvalid),
    "undefined in condition": (_undefined_in_condition, ConditionInvalid),
    "no undo": (_no_undo, PlaybookInvalid),
    "wrong undo": (_wrong_undo, PlaybookInvalid),
    "unknown verb": (_unknown_verb, PlaybookInvalid),
    "unknown parameter": (_unknown_parameter, PlaybookInvalid),
    "splice": (_splice, PlaybookInvalid),
    "evict": (_evict, PlaybookInvalid),
    "level by variable": (_level_by_variable, PlaybookInvalid),
    "above own level": (_above_own_level, PlaybookInvalid),
    "no exit": (_no_exit, PlaybookInvalid),
    "both exits": (_both_exits, PlaybookInvalid),
    "unknown agent": (_unknown_agent, PlaybookInvalid),
    "constant output": (_constant_output, PlaybookInvalid),
    "unknown field": (_unknown_field, PlaybookInvalid),
}


@pytest.mark.parametrize("kind", BROKEN)
def test_a_broken_playbook_is_refused_with_file_step_and_line(kind: str) -> None:
    breaks, error = BROKEN[kind]
    document = camera_document()
    where = breaks(document)
    text = json.dumps(document, indent=2)
    with pytest.raises(error) as caught:
        reader.read(text, file="broken.cacao.json", verbs=library.verb_facts())
    fields = caught.value.fields
    assert type(caught.value) is error
    assert (fields["file"], fields["step"]) == ("broken.cacao.json", where)
    assert text.splitlines()[fields["line"] - 1].strip().startswith(f'"{where}"')


@pytest.mark.parametrize(
    "kind", ["parallel", "while-condition", "switch-condition", "playbook-action", "x-new", None, 7]
)
def test_every_other_step_type_is_refused(kind: Any) -> None:
    document = camera_document()
    document["workflow"][f"parallel--{INPUT_ID}"] = {"type": kind}
    with pytest.raises(UnknownStepType):
        reader.read(json.dumps(document), file="f", verbs=None)


def test_a_name_that_stands_twice_is_refused_with_its_line() -> None:
    with pytest.raises(PlaybookInvalid) as caught:
        reader.read('{"type": "playbook", "type": "other"}', file="f", verbs=None)
    assert caught.value.fields["file"] == "f"
    with pytest.raises(PlaybookInvalid) as caught:
        reader.read('{\n"type": }', file="f", verbs=None)
    assert caught.value.fields["line"] == 2


def test_an_http_step_needs_a_target_of_the_playbook() -> None:
    document = camera_document()
    action = step(document, "action")
    document["workflow"][action] = http_action("/x", idempotent=True, nxt=step(document, "end"))
    broken = json.dumps(document)
    with pytest.raises(PlaybookInvalid) as caught:
        reader.read(broken, file="f", verbs=None)
    assert caught.value.fields["step"] == action
    document["workflow"].pop(
        next(name for name in document["workflow"] if name.startswith("action") and name != action)
    )
    made = reader.read(json.dumps(with_target(document, "https://peer.example")), file="f", verbs=None)
    assert made.steps[action].command.url == "https://peer.example/x"  # type: ignore[union-attr]


def test_a_variable_in_a_url_is_refused() -> None:
    document = with_target(camera_document(), "https://__device__:value")
    with pytest.raises(PlaybookInvalid):
        reader.read(json.dumps(document), file="f", verbs=None)


# conditions and variables

VARIABLES = {
    "__x__": Variable(name="__x__", type=VariableType.STRING),
    "__n__": Variable(name="__n__", type=VariableType.INTEGER),
    "__b__": Variable(name="__b__", type=VariableType.BOOL),
    "__l__": Variable(name="__l__", type=VariableType.LIST),
}


@pytest.mark.parametrize(
    ("text", "values", "holds"),
    [
        ("__x__:value = 'yes'", {"__x__": "yes"}, True),
        ("__x__:value = 'yes'", {"__x__": "'yes'"}, False),  # the quotes are not part of the value
        ("[__x__:value = 'yes']", {"__x__": "yes"}, True),
        (r"__x__:value = 'it\'s'", {"__x__": "it's"}, True),
        (r"__x__:value = 'a\\b'", {"__x__": r"a\b"}, True),
        ("__x__:value = 'AND __n__:value = 1'", {"__x__": "AND __n__:value = 1"}, True),
        ("__x__:value != 'yes'", {"__x__": "no"}, True),
        ("__x__:value NOT = 'yes'", {"__x__": "yes"}, False),
        ("__n__:value >= 2", {"__n__": 2}, True),
        ("__n__:value < -1", {"__n__": -2}, True),
        ("__n__:value > 2", {"__n__": None}, False),
        ("__b__:value = true", {"__b__": True}, True),
        ("__x__:value IN ('a', 'b')", {"__x__": "b"}, True),
        ("__x__:value NOT IN ('a', 'b')", {"__x__": "c"}, True),
        (
            "__x__:value = 'a' OR __n__:value = 1 AND __b__:value = true",
            {"__x__": "a", "__n__": 9, "__b__": False},
            True,
        ),
        (
            "(__x__:value = 'a' OR __n__:value = 1) AND __b__:value = true",
            {"__x__": "a", "__n__": 9, "__b__": False},
            False,
        ),
    ],
)
def test_conditions(text: str, values: dict[str, Any], holds: bool) -> None:
    assert conditions.parse(text, VARIABLES).holds(values) is holds


@pytest.mark.parametrize(
    "text",
    [
        "", "__x__:value", "__x__:value = yes", "__x__:value == 'a'", "__x__:value = 'a", "'a' = __x__:value",
        "__x__:value = 'a' __n__:value = 1", "__x__:value = 5", "__n__:value = '5'", "__n__:value = true", "__b__:value > true",
        "__l__:value = 'a'", "__gone__:value = 'a'", "(__x__:value = 'a'", "__x__:value = __x__:value",
        "__x__:value = 'a'; import os", "__x__:value LIKE 'a%'",
    ],
)  # fmt: skip
def test_conditions_that_cannot_be_read_are_refused(text: str) -> None:
    with pytest.raises(ConditionInvalid):
        conditions.parse(text, VARIABLES)


def test_substitution_is_structural() -> None:
    evil = 'x", "level": "evict'
    made = substitute({"a": "__x__:value", "b": ["__n__:value", {"c": "plain"}]}, {"__x__": evil, "__n__": 3})
    assert made == {"a": evil, "b": [3, {"c": "plain"}]}
    assert substitute("__x__:value", {"__x__": "__n__:value"}) == "__n__:value"  # once, not again
    with pytest.raises(PlaybookInvalid):
        list(references({"a": {"__x__:value": 1}}))


def test_an_external_variable_is_one_that_the_trigger_binds() -> None:
    document = camera_document()
    document["playbook_variables"]["__shoe_size__"] = {"type": "integer", "external": True}
    assert "__shoe_size__" not in INPUTS
    with pytest.raises(PlaybookInvalid):
        reader.read(json.dumps(document), file="f", verbs=None)
