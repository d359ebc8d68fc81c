"""A ledger in memory, written as an export by other code than the exporter: for honest ledgers of any size, and for forgers
who hold the ledger's key and sign a history of their own."""

import hashlib
import json

import rfc8785
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey

from lachan.ledger import merkle
from lachan.ledger.document import ExportScope, b64, encode
from lachan.ledger.note import Checkpoint, Verifier, origin_of, sign

PRIVATE = Ed25519PrivateKey.from_private_bytes(hashlib.sha256(b"lachan tests").digest())
KEY = Verifier(origin_of(PRIVATE.public_key().public_bytes_raw()), PRIVATE.public_key().public_bytes_raw())


def body(i: int, **change) -> bytes:
    """An event as the outbox stores it; every third is about device d0."""
    value = {
        "id": f"id-{i}", "name": f"Fact{i % 4}", "actor": "system:test", "device_id": f"d{i % 3}", "vendor": None,
        "happened_at": f"2026-11-22T10:00:{i % 60:02d}.000000Z", "recorded_at": f"2026-11-22T10:00:{i % 60:02d}.000000Z",
        "data": {"n": i, "text": "đèn \x1b[31m"}, "salt": f"{i:032x}",
    }  # fmt: skip
    return rfc8785.dumps({**value, **change})


def checkpoint(bodies: list[bytes], key: Ed25519PrivateKey = PRIVATE) -> str:
    """The signed checkpoint of a history."""
    found = Checkpoint(KEY.name, len(bodies), merkle.root(map(merkle.leaf_hash, bodies)))
    return sign(found.text, KEY, key.sign)


def write(
    bodies: list[bytes],
    *,
    scope: ExportScope = ExportScope(),
    since: int | None = None,
    section: int = 256,
    form: int = 2,
) -> list[bytes]:
    """Write the lines of an export of this history; ``form`` 1 has its contents in the header."""
    leaves = [merkle.leaf_hash(text) for text in bodies]
    facts = [json.loads(text) for text in bodies]
    chosen = [i for i, fact in enumerate(facts) if scope.holds(fact)]

    def nodes(level: int, index: int) -> bytes:
        return merkle.root(leaves[index << level : (index + 1) << level])

    size = len(bodies)
    earlier = None
    if since is not None:
        proof = [b64(step) for step in merkle.consistency_path(since, size, nodes)]
        earlier = {"checkpoint": checkpoint(bodies[:since]), "proof": proof}
    rows = [[i, facts[i]["id"], facts[i]["name"]] for i in chosen]
    values = [{
        "type": "header", "format": f"lachan-ledger-export/{form}", "origin": KEY.name, "size": size,
        "checkpoint": checkpoint(bodies), "scope": scope.json(), **({"contents": rows} if form == 1 else {}),
        "since": earlier, "made_at": "now",
    }]  # fmt: skip
    sections = [] if form == 1 else [rows[i : i + section] for i in range(0, len(rows), section)]

    def list_next() -> None:
        if sections:
            values.append({"type": "contents", "events": sections.pop(0)})

    def cut(lo: int, hi: int) -> None:
        if not any(lo <= i < hi for i in chosen):
            values.append({"type": "hash", "start": lo, "end": hi, "hash": b64(merkle.root(leaves[lo:hi]))})
        elif hi - lo == 1:
            proof = [b64(step) for step in merkle.inclusion_path(lo, size, nodes)]
            values.append({"type": "event", "index": lo, "body": bodies[lo].decode(), "proof": proof})
            if (chosen.index(lo) + 1) % section == 0:
                list_next()
        else:
            middle = lo + (1 << (hi - lo - 1).bit_length() - 1)
            cut(lo, middle)
            cut(middle, hi)

    list_next()
    if size:
        cut(0, size)
    return seal([encode(value) for value in values])


def seal(lines: list[bytes]) -> list[bytes]:
    """Lines with a fresh digest at the end: what a forger does after every change."""
    lines = [line for line in lines if not line.startswith(b'{"type":"end"')]
    digest = hashlib.sha256(b"".join(lines)).hexdigest()
    return [*lines, encode({"type": "end", "lines": len(lines), "sha256": digest})]


def edit(lines: list[bytes], number: int, **change) -> list[bytes]:
    """Lines with some fields of one of them changed, and a fresh digest."""
    value = {**json.loads(lines[number]), **change}
    return seal([*lines[:number], encode(value), *lines[number + 1 :]])


def line_of(lines: list[bytes], index: int) -> int:
    """Find the line of an event."""
    return next(n for n, line in enumerate(lines) if line.startswith(b'{"type":"event","index":%d,' % index))


def listing(lines: list[bytes], index: int) -> int:
    """Find the line whose table of contents lists an event."""
    return next(n for n, line in enumerate(lines) if any(row[0] == index for row in _rows(line)))


def relist(lines: list[bytes], number: int, change) -> list[bytes]:
    """Change the table of contents of one line, and make the digest fit."""
    word = "events" if b'"contents","events"' in lines[number] else "contents"
    return edit(lines, number, **{word: change(_rows(lines[number]))})


def _rows(line: bytes) -> list:
    value = json.loads(line)
    return value.get("contents", []) if value["type"] == "header" else value.get("events", [])
