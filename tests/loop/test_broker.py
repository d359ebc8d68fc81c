"""The demo never needs a broker: none on the machine, or one that does not start, leaves the city's settings alone."""

from pathlib import Path

import pytest

from lachan.demo import broker
from lachan.demo.city import City


def test_without_mosquitto_nothing_is_named_in_the_settings(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(broker.shutil, "which", lambda *_, **__: None)
    city = City(tmp_path)
    before = dict(city.env)
    assert broker.beside(city) is None
    assert (city.env, city.others) == (before, [])


def test_a_broker_that_does_not_start_is_as_none(tmp_path: Path) -> None:
    city = City(tmp_path)
    before = dict(city.env)
    assert broker.Broker.start(city, "false", Path("/no/plugin.so")) is None
    assert city.env == before
    assert (tmp_path / "broker" / "dynsec.json").stat().st_mode & 0o777 == 0o600
    city.close()
    assert city.others[0].returncode is not None
