"""What the posture tests share: people, a registered camera, and approved engagements."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from datetime import timedelta
from typing import Any

import pytest

from lachan import clock, devices
from lachan.identity import Principal, Role
from lachan.runtime import Runtime
from posture import engagements
from posture.engagements import Engagement, EngagementWanted, Method
from tests.conftest import person
from tests.posture.cameras import BadCamera

ANALYST = person("an", Role.ANALYST)
APPROVER = person("binh", Role.APPROVER)
ALL = tuple(Method)


def register(
    rt: Runtime, name: str = "cam-1", *, address: str | None = "127.0.0.1", vendor: str = "acme"
) -> devices.Device:
    """A camera in the registry."""
    new = devices.NewDevice(
        name=name, vendor=vendor, model="C1", serial_number=f"SN-{name}", site="hk", ward="Hàng Bạc", address=address
    )
    with rt.db.write() as connection:
        return devices.register(connection, new, actor=person("root", Role.ADMIN))


def wanted(device_id: str, *ports: int, **changes: Any) -> EngagementWanted:
    """A request that holds now, for loopback, fast."""
    now = clock.now()
    values: dict[str, Any] = {
        "reason": "test", "device_ids": (device_id,), "ports": ports, "methods": ALL, "loopback": True,
        "not_before": now - timedelta(minutes=1), "not_after": now + timedelta(hours=1), "rate": 1000.0, "burst": 1000,
    }  # fmt: skip
    return EngagementWanted(**{**values, **changes})


def approved(rt: Runtime, device_id: str, *ports: int, approver: Principal = APPROVER, **changes: Any) -> Engagement:
    """An engagement that one person requested and another approved."""
    with rt.db.write() as connection:
        found = engagements.request(connection, wanted(device_id, *ports, **changes), actor=ANALYST)
        return engagements.approve(connection, found.id, actor=approver)


@pytest.fixture
def cameras() -> Iterator[Callable[..., Any]]:
    """Starts cameras and stops them at the end."""
    started: list[Any] = []

    def start(camera: Any) -> Any:
        started.append(camera)
        return camera

    yield start
    for camera in started:
        camera.stop()


@pytest.fixture
def bad(cameras: Callable[..., Any]) -> BadCamera:
    """A bad camera, running."""
    camera: BadCamera = cameras(BadCamera.start())
    return camera
