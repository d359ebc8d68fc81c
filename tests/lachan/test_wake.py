"""Wake-ups reach whoever sleeps on a data folder, however long its path is; a bed whose process died is cleared away."""

import threading
from pathlib import Path

import pytest

from lachan.work import wake


@pytest.mark.parametrize("deep", [False, True], ids=["short path", "path longer than a socket's name may be"])
def test_a_wake_up_is_heard(tmp_path: Path, deep: bool) -> None:
    data = tmp_path / ("d" * 120 if deep else "d")
    data.mkdir()
    bed = wake.Sleeper(data, "work")
    try:
        assert not bed.sleep(0.001)
        heard: list[bool] = []
        sleeper = threading.Thread(target=lambda: heard.append(bed.sleep(10)))
        sleeper.start()
        wake.notify(data)
        sleeper.join(10)
        assert heard == [True]
    finally:
        bed.close()
    assert list((data / "run").iterdir()) == []
    wake.notify(data)  # nobody there is no error


def test_a_dead_bed_is_cleared_away(tmp_path: Path) -> None:
    bed = wake.Sleeper(tmp_path, "work")
    bed._socket.close()
    wake.notify(tmp_path)
    assert not bed.path.exists()
