"""The console speaks Vietnamese completely: everything marked in templates and Python is in the catalogue, translated, compiled."""

from __future__ import annotations

import io
import re

import pytest
from babel.messages.catalog import Catalog
from babel.messages.extract import extract_from_dir
from babel.messages.mofile import read_mo, write_mo
from babel.messages.pofile import read_po

from tests.house import tree

PEOPLE = tree.ROOT / "api" / "people"
PO = PEOPLE / "locale" / "vi" / "LC_MESSAGES" / "lachan.po"
METHODS = [("**.py", "python"), ("**/templates/**.html", "jinja2"), ("**/templates/**.txt", "jinja2")]
FIELD = re.compile(r"%\(\w+\)[sd]|%[sd]|\{\w*\}")

Message = str | tuple[str, ...]


def marked() -> dict[Message, str]:
    """Every message marked for translation, with the place it stands at."""
    options = {pattern: {"trimmed": "true"} for pattern, _ in METHODS if pattern.endswith(("html", "txt"))}
    rows = extract_from_dir(PEOPLE, method_map=METHODS, options_map=options, keywords=KEYWORDS)
    return {message: f"{file}:{line}" for file, line, message, *_ in rows if message}


KEYWORDS = {"_": None, "gettext": None, "ngettext": (1, 2), "pgettext": ((1, "c"), 2), "lazy_gettext": None, "N_": None}


@pytest.fixture(scope="module")
def catalogue() -> Catalog:
    assert PO.exists(), "the console's Vietnamese catalogue is missing"
    with PO.open("rb") as file:
        return read_po(file, locale="vi", domain="lachan", abort_invalid=True)


def test_everything_marked_is_translated(catalogue: Catalog) -> None:
    messages = marked()
    assert messages, "nothing is marked for translation: the extraction looks in the wrong place"
    missing = [f"{place}: {message!r}" for message, place in messages.items() if not translated(catalogue, message)]
    assert missing == []


def translated(catalogue: Catalog, message: Message) -> bool:
    entry = catalogue.get(message)
    if entry is None or entry.fuzzy:
        return False
    return all(entry.string) if isinstance(entry.string, tuple | list) else bool(entry.string)


def test_nothing_stale_is_kept(catalogue: Catalog) -> None:
    known = set(marked())
    known |= {message[0] for message in known if isinstance(message, tuple)}
    stale = [entry.id for entry in catalogue if entry.id and entry.id not in known and first(entry.id) not in known]
    assert stale == []


def first(message: Message) -> str:
    return message if isinstance(message, str) else message[0]


def test_placeholders_survive_translation(catalogue: Catalog) -> None:
    for entry in catalogue:
        if not entry.id:
            continue
        texts = entry.string if isinstance(entry.string, tuple | list) else (entry.string,)
        for text in texts:
            assert set(FIELD.findall(text)) <= set(
                FIELD.findall(" ".join([entry.id] if isinstance(entry.id, str) else entry.id))
            ), entry.id


def test_the_compiled_catalogue_is_up_to_date(catalogue: Catalog) -> None:
    compiled = PO.with_suffix(".mo")
    assert compiled.exists(), f"compile it: pybabel compile -D lachan -d {PO.parents[2].relative_to(tree.ROOT)}"
    wanted = io.BytesIO()
    write_mo(wanted, catalogue)
    wanted.seek(0)
    with compiled.open("rb") as file:
        assert plain(read_mo(file)) == plain(read_mo(wanted))


def plain(catalogue: Catalog) -> dict[str, object]:
    """A catalogue as values that compare."""
    return {str(entry.id): entry.string for entry in catalogue if entry.id}
