"""Every page of the console on PostgreSQL, and the release by two persons."""

import pytest

from tests.api.conftest import town  # noqa: F401
from tests.api.console_town import Console
from tests.api.test_console import console, pages, test_two_persons_release_by_forms, web  # noqa: F401

pytestmark = pytest.mark.interop


def test_every_page_renders(console: Console) -> None:  # noqa: F811
    assert len(list(pages(console, "chi"))) > 20
    assert "gate-0007" not in web(console, "hang").get("/fleet").text
    for place in ("/fleet?after=3~cam", "/fleet?decision=allow&q=cam_", "/search?q=5a00", "/alerts?after=x~y"):
        assert web(console, "an").get(place).status_code in (200, 303), place
