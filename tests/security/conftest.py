"""Fixtures of the rooms, for attacks that go through several of them."""

from tests.api.conftest import doors, town  # noqa: F401
from tests.ota_signing.conftest import house, quiet_house, short_folder  # noqa: F401
from tests.siem_rules.conftest import open_rt  # noqa: F401
