"""Every single change, removal and reordering of an export is detected and named; so are a cut tail and a rewritten history."""

import json

import pytest
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey
from hypothesis import given, settings
from hypothesis import strategies as st

from lachan.ledger import document, merkle
from lachan.ledger.document import ExportScope, b64, encode
from lachan.ledger.errors import ExportRefused
from lachan.ledger.findings import Fault
from lachan.ledger.note import Checkpoint, sign
from lachan.ledger.verify import verify
from tests.ledger.forge import KEY, PRIVATE, body, checkpoint, edit, line_of, listing, relist, seal, write

BODIES = [body(i) for i in range(23)]
FORMS = {"2": {}, "2-sections-of-4": {"section": 4}, "2-sections-of-1": {"section": 1}, "1": {"form": 1}}
FULLS = {name: write(BODIES, **form) for name, form in FORMS.items()}
FULL = FULLS["2"]
SCOPED = write(BODIES, scope=ExportScope(device_id="d0"))
EVENTS = range(len(BODIES))
forms = st.sampled_from(list(FORMS.values()))
every_form = pytest.mark.parametrize("full", FULLS.values(), ids=FULLS)
every_scoped = pytest.mark.parametrize(
    "scoped", [write(BODIES, scope=ExportScope(device_id="d0"), **form) for form in FORMS.values()], ids=FORMS
)
sizes = st.integers(1, 70)
scopes = st.sampled_from(
    [
        ExportScope(),
        ExportScope(device_id="d0"),
        ExportScope(device_id="d1", start="2026-11-22T10:00:07"),
        ExportScope(vendor="none"),
    ]
)


def refused(lines, **more) -> list[dict]:
    with pytest.raises(ExportRefused) as caught:
        verify(lines, KEY, **more)
    return caught.value.fields["findings"]


def names(findings: list[dict], i: int, fault: Fault | None = None) -> bool:
    """Whether the event that stood at this place is named: index, id and name."""
    return any(
        (f["index"], f["id"], f["name"]) == (i, f"id-{i}", f"Fact{i % 4}") and fault in (None, f["fault"])
        for f in findings
    )


@given(sizes, scopes, forms, st.data())
@settings(max_examples=250, deadline=None)
def test_an_honest_export_holds(size: int, scope: ExportScope, form: dict, data: st.DataObject):
    bodies = [body(i) for i in range(size)]
    old = data.draw(st.integers(0, size))
    found = verify(write(bodies, scope=scope, since=old, **form), KEY, since=checkpoint(bodies[:old]))
    assert (found.size, found.since, found.root) == (size, old, merkle.root(map(merkle.leaf_hash, bodies)))
    assert found.events == sum(scope.holds(json.loads(text)) for text in bodies)


def test_what_it_cannot_know_is_said():
    assert "earlier checkpoint" in " ".join(verify(FULL, KEY).cannot_know)
    assert verify(FULL, KEY, since=checkpoint(BODIES[:5])).cannot_know == ()
    assert "only hashed" in " ".join(verify(SCOPED, KEY).cannot_know)


def test_an_empty_ledger():
    assert verify(write([]), KEY).size == 0


# changed


@given(sizes, scopes, forms, st.data())
@settings(max_examples=400, deadline=None)
def test_any_change_to_an_event_line_is_named(size: int, scope: ExportScope, form: dict, data: st.DataObject):
    """Whatever one field of an event's line becomes: the event is named, though the forger made the digest fit."""
    lines = write([body(i) for i in range(size)], scope=scope, **form)
    events = [n for n, line in enumerate(lines) if line.startswith(b'{"type":"event"')]
    if not events:
        return
    number = data.draw(st.sampled_from(events))
    value = json.loads(lines[number])
    index = value["index"]
    field = data.draw(st.sampled_from(["body", "index", "proof"]))
    if field == "body":
        place = data.draw(st.integers(0, len(value["body"]) - 1))
        letter = data.draw(st.characters(codec="utf-8").filter(lambda c: c != value["body"][place]))
        changed = value["body"][:place] + letter + value["body"][place + 1 :]
    elif field == "index":
        changed = data.draw(st.integers(0, 80).filter(lambda i: i != index))
    else:
        proof = value["proof"]
        changed = data.draw(
            st.sampled_from([[*proof, b64(bytes(32))], proof[1:] if proof else [b64(bytes(32))], proof[::-1]])
        )
        if changed == proof:
            return
    assert names(refused(edit(lines, number, **{field: changed})), index)


@given(st.data())
@settings(max_examples=300, deadline=None)
def test_any_changed_byte_is_detected(data: st.DataObject):
    raw = b"".join(data.draw(st.sampled_from([*FULLS.values(), SCOPED])))
    place = data.draw(st.integers(0, len(raw) - 1))
    changed = raw[:place] + bytes([raw[place] ^ data.draw(st.integers(1, 255))]) + raw[place + 1 :]
    refused(changed.splitlines(keepends=True))


@given(st.data())
@settings(max_examples=200, deadline=None)
def test_a_changed_byte_in_an_event_line_names_the_event(data: st.DataObject):
    index, full = data.draw(st.sampled_from(EVENTS)), data.draw(st.sampled_from(list(FULLS.values())))
    number = line_of(full, index)
    line = full[number]
    place = data.draw(st.integers(0, len(line) - 2))
    letter = data.draw(st.integers(32, 126).filter(lambda c: c != line[place]))
    changed = line[:place] + bytes([letter]) + line[place + 1 :]
    for lines in ([*full[:number], changed, *full[number + 1 :]], seal([*full[:number], changed, *full[number + 1 :]])):
        assert names(refused(lines), index)


@every_form
@pytest.mark.parametrize("index", EVENTS)
def test_a_changed_event_says_what_it_was(full: list[bytes], index: int):
    forged = json.loads(BODIES[index]) | {"name": "Harmless", "id": "other"}
    findings = refused(edit(full, line_of(full, index), body=json.dumps(forged)))
    assert names(findings, index, Fault.CHANGED)
    assert len(findings) == 1  # and no other is accused


def test_an_event_cannot_be_passed_off_as_erased():
    number = line_of(FULL, 3)
    value = json.loads(FULL[number])
    leaf = b64(merkle.leaf_hash(BODIES[3]))
    erased = {"type": "erased", "index": 3, "id": "id-3", "name": "Fact3", "leaf": leaf, "proof": value["proof"]}
    lines = seal([*FULL[:number], encode(erased), *FULL[number + 1 :]])
    found = verify(lines, KEY)  # that is what an erasure is; it is told
    assert (found.erased, "1 erased" in " ".join(found.cannot_know)) == (1, True)
    assert names(refused(edit(lines, number, leaf=b64(bytes(32)))), 3, Fault.CHANGED)
    assert names(refused(edit(lines, number, name="Fact1")), 3) is False
    assert refused(edit(lines, number, name="Fact1"))[0]["index"] == 3


def test_a_proof_that_was_fitted_to_a_changed_neighbour_is_named_too():
    """Who changes an event and makes its neighbours' proofs agree with it has changed those events, too."""
    bodies = [body(0, actor="system:mallory"), *BODIES[1:]]
    honest, forged = json.loads(FULL[line_of(FULL, 4)]), merkle.root(map(merkle.leaf_hash, bodies[:4]))
    lines = edit(FULL, line_of(FULL, 0), body=bodies[0].decode())
    proof = [*honest["proof"][:2], b64(forged), *honest["proof"][3:]]
    findings = refused(edit(lines, line_of(FULL, 4), proof=proof))
    assert [(f["fault"], f["index"]) for f in findings] == [(Fault.CHANGED, 0), (Fault.CHANGED, 4)]


@every_form
def test_an_event_that_claims_a_far_place_accuses_nobody_behind_it(full: list[bytes]):
    findings = refused(edit(full, line_of(full, 3), index=20))
    assert [(f["fault"], f["index"]) for f in findings] == [(Fault.CHANGED, 20), (Fault.REMOVED, 3)]
    assert names(findings, 3, Fault.REMOVED)


# removed


@every_form
@pytest.mark.parametrize("index", EVENTS)
def test_a_removed_event_is_named(full: list[bytes], index: int):
    number = line_of(full, index)
    without = seal(full[:number] + full[number + 1 :])
    assert names(refused(without), index, Fault.REMOVED)
    unlisted = relist(without, listing(full, index), lambda rows: [row for row in rows if row[0] != index])
    (finding,) = refused(unlisted)
    assert (finding["fault"], finding["index"]) == (Fault.REMOVED, index)
    hashed = {"type": "hash", "start": index, "end": index + 1, "hash": b64(merkle.leaf_hash(BODIES[index]))}
    assert names(refused(seal([*full[:number], encode(hashed), *full[number + 1 :]])), index, Fault.REMOVED)


@every_form
@given(st.data())
@settings(max_examples=100, deadline=None)
def test_removed_events_are_all_named(full: list[bytes], data: st.DataObject):
    gone = data.draw(st.sets(st.sampled_from(EVENTS), min_size=1))
    numbers = {line_of(full, index) for index in gone}
    findings = refused(seal([line for number, line in enumerate(full) if number not in numbers]))
    assert {f["fault"] for f in findings} == {Fault.REMOVED}
    assert all(names(findings, index, Fault.REMOVED) for index in gone)
    assert len(findings) == len(gone)


def test_a_removed_section_is_known_by_its_places():
    full = FULLS["2-sections-of-4"]
    first, last = listing(full, 8), line_of(full, 11)
    findings = refused(seal(full[:first] + full[last + 1 :]))
    assert [(f["fault"], f["index"]) for f in findings] == [(Fault.REMOVED, i) for i in range(8, 12)]


@every_scoped
def test_an_event_removed_from_a_scoped_export_is_named(scoped: list[bytes]):
    for number, line in enumerate(scoped):
        if line.startswith(b'{"type":"event"'):
            index = json.loads(line)["index"]
            assert names(refused(seal(scoped[:number] + scoped[number + 1 :])), index, Fault.REMOVED)
            hashed = {"type": "hash", "start": index, "end": index + 1, "hash": b64(merkle.leaf_hash(BODIES[index]))}
            assert names(refused(seal([*scoped[:number], encode(hashed), *scoped[number + 1 :]])), index, Fault.REMOVED)


def test_a_full_export_that_is_scoped_in_truth():
    lines = edit(SCOPED, 0, scope=ExportScope().json())
    assert {f["fault"] for f in refused(lines)} == {Fault.REMOVED}
    assert refused(edit(FULL, 0, scope=ExportScope(device_id="d0").json()))[0]["fault"] == Fault.OUT_OF_SCOPE


def test_lines_cut_from_the_end():
    for keep in range(len(FULL)):
        assert refused(FULL[:keep])


# reordered


@every_form
@given(st.data())
@settings(max_examples=80, deadline=None)
def test_reordered_events_are_named(full: list[bytes], data: st.DataObject):
    a, b = sorted(data.draw(st.lists(st.sampled_from(EVENTS), min_size=2, max_size=2, unique=True)))
    m, n = line_of(full, a), line_of(full, b)
    swapped = list(full)
    swapped[m], swapped[n] = swapped[n], swapped[m]
    findings = refused(seal(swapped))
    assert names(findings, a, Fault.REORDERED)
    assert Fault.REMOVED not in {f["fault"] for f in findings}
    bodies = list(full)
    first, second = json.loads(full[m]), json.loads(full[n])
    bodies[m], bodies[n] = encode({**first, "body": second["body"]}), encode({**second, "body": first["body"]})
    findings = refused(seal(bodies))
    assert names(findings, a, Fault.CHANGED)
    assert names(findings, b, Fault.CHANGED)
    assert len(findings) == 2


@every_form
def test_an_event_that_is_there_twice(full: list[bytes]):
    for index in (2, 5):
        number = line_of(full, 2)
        place = line_of(full, index) + 1
        findings = refused(seal([*full[:place], full[number], *full[place:]]))
        assert names(findings, 2, Fault.REORDERED)
        assert len(findings) == 1


# the hashes and the rest


def test_a_changed_hash_outside_the_scope_is_shown():
    for number, line in enumerate(SCOPED):
        if line.startswith(b'{"type":"hash"'):
            findings = refused(edit(SCOPED, number, hash=b64(bytes(32))))
            assert [(f["fault"], f["line"]) for f in findings] == [(Fault.HASHES, number + 1)]
    nothing = write(BODIES, scope=ExportScope(vendor="none"))
    assert refused(edit(nothing, 1, hash=b64(bytes(32))))[0]["fault"] == Fault.HASHES


@every_form
def test_a_table_of_contents_that_lies(full: list[bytes]):
    number = listing(full, 4)
    lied = relist(full, number, lambda rows: [[4, "id-4", "Harmless"] if row[0] == 4 else row for row in rows])
    assert names(refused(lied), 4, Fault.CONTENTS)
    assert names(refused(relist(full, number, lambda rows: [row for row in rows if row[0] != 4])), 4, Fault.CONTENTS)
    if full is not FULLS["2-sections-of-1"]:
        assert refused(relist(full, number, lambda rows: rows[::-1]))[0]["fault"] == Fault.CONTENTS
    more = relist(full, listing(full, 22), lambda rows: [*rows, [23, "id-23", "Fact3"]])
    assert [f["fault"] for f in refused(more)] == [Fault.CONTENTS]


def test_a_checkpoint_of_somebody_else():
    stranger = Ed25519PrivateKey.generate()
    assert refused(edit(FULL, 0, checkpoint=checkpoint(BODIES, stranger)))[0]["fault"] == Fault.CHECKPOINT
    assert refused(edit(FULL, 0, size=99))[0]["fault"] == Fault.MALFORMED


def test_a_signed_root_over_other_events():
    """The ledger's own key over another history of the same length: no event's proof holds."""
    other = checkpoint([*BODIES[:-1], body(99)])
    findings = refused(edit(FULL, 0, checkpoint=other))
    assert all(names(findings, i, Fault.CHANGED) for i in range(len(BODIES)))


@pytest.mark.parametrize("line", [
    b"", b"\n", b"[]\n", b"{}\n", b'{"type":"event"}\n', b'{"type": "hash"}\n', b"\xff\n", b'{"type":"hash","start":0,"end":true,"hash":""}\n',
    b'{"type":"hash","start":0,"end":1,"hash":"AAAA"}\n', b'{"type":"hash","type":"hash"}\n', b'{"a":' * 100_000 + b"\n",
])  # fmt: skip
def test_malformed_lines_are_refused_and_do_not_break_the_verifier(line: bytes):
    assert refused(seal([*FULL[:3], line, *FULL[3:]]))
    assert refused([line])
    assert refused([line, *FULL[1:]])


def test_nothing_at_all():
    assert refused([])


def test_a_section_of_the_contents_out_of_its_place():
    full = FULLS["2-sections-of-4"]
    a, b = listing(full, 4), listing(full, 8)
    lines = list(full)
    lines[a], lines[b] = lines[b], lines[a]
    assert Fault.CONTENTS in {f["fault"] for f in refused(seal(lines))}
    assert Fault.CONTENTS in {f["fault"] for f in refused(seal([*full[:b], *full[b + 1 :]]))}
    assert Fault.CONTENTS in {f["fault"] for f in refused(seal([*full[:b], full[a], *full[b:]]))}


def test_findings_are_counted_and_only_the_first_are_kept():
    bodies = [body(i) for i in range(300)]
    lines = write(bodies)
    with pytest.raises(ExportRefused) as caught:
        verify(seal([line.replace(b"system:test", b"system:tess") for line in lines]), KEY)
    assert (len(caught.value.fields["findings"]), caught.value.fields["count"]) == (100, 300)


# against an earlier checkpoint


@given(sizes, st.data())
@settings(max_examples=100, deadline=None)
def test_a_cut_tail(size: int, data: st.DataObject):
    bodies = [body(i) for i in range(size)]
    kept = data.draw(st.integers(0, size - 1))
    cut = write(bodies[:kept])
    assert verify(cut, KEY).size == kept  # in itself it is sound
    (finding,) = refused(cut, since=checkpoint(bodies))
    assert finding["fault"] == Fault.TRUNCATED


@given(sizes, scopes, st.data())
@settings(max_examples=150, deadline=None)
def test_a_history_that_was_rewritten_and_signed_again(size: int, scope: ExportScope, data: st.DataObject):
    bodies = [body(i) for i in range(size)]
    old = data.draw(st.integers(1, size))
    place = data.draw(st.integers(0, old - 1))
    rewritten = [*bodies[:place], body(place, actor="system:mallory"), *bodies[place + 1 :]]
    forged = write(rewritten, scope=scope, since=old)
    verify(forged, KEY)  # the forger holds the key: in itself it is sound
    findings = refused(forged, since=checkpoint(bodies[:old]))
    assert {f["fault"] for f in findings} <= {Fault.REWRITTEN, Fault.UNPROVEN}
    if scope.whole:
        assert findings[0]["fault"] == Fault.REWRITTEN
    lying = json.loads(forged[0])["since"] | {"checkpoint": checkpoint(bodies[:old])}
    assert refused(edit(forged, 0, since=lying), since=checkpoint(bodies[:old]))[0]["fault"] == Fault.REWRITTEN


def test_a_scoped_export_needs_the_proof_from_that_checkpoint():
    (finding,) = refused(SCOPED, since=checkpoint(BODIES[:11]))
    assert finding["fault"] == Fault.UNPROVEN
    assert (
        verify(write(BODIES, scope=ExportScope(device_id="d0"), since=11), KEY, since=checkpoint(BODIES[:11])).since
        == 11
    )


def test_an_earlier_checkpoint_of_somebody_else():
    stranger = sign(Checkpoint(KEY.name, 3, bytes(32)).text, KEY, Ed25519PrivateKey.generate().sign)
    assert refused(FULL, since=stranger)[0]["fault"] == Fault.CHECKPOINT
    elsewhere = sign(Checkpoint("elsewhere", 3, bytes(32)).text, KEY, PRIVATE.sign)
    assert refused(FULL, since=elsewhere)[0]["fault"] == Fault.CHECKPOINT


def test_lines_are_spelt_in_one_way_only():
    with pytest.raises(document.Malformed):
        document.parse_line(b'{"a": 1}\n')
