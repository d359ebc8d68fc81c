"""The signer's log: numbers go on, a line cut short by a crash is not counted, refusals of earlier runs are delivered."""

from pathlib import Path

import pytest

from lachan.runtime import Runtime
from lachan.signer import siglog
from lachan.signer.relay import Relay
from lachan.signer.siglog import SignatureLog, SignatureOutcome
from lachan.work import outbox

REFUSED = {"subject": "s", "digest": "", "outcome": SignatureOutcome.REFUSED, "reason": "why"}
SIGNED = {"subject": "s", "digest": "00", "outcome": SignatureOutcome.SIGNED}


def test_numbers_go_on_after_a_crash_in_the_middle_of_a_line(tmp_path: Path):
    path = tmp_path / "signatures.log"
    first = SignatureLog(path)
    assert first.append("issue", [SIGNED, SIGNED]) == 2
    first.close()
    whole = path.stat().st_size
    with path.open("ab") as file:
        file.write(b'{"n": 3, "id": "cut sho')
    assert [line["n"] for _, line in siglog.read(path)] == [1, 2]
    second = SignatureLog(path)
    assert second.append("issue", [SIGNED]) == 3
    second.close()
    found = list(siglog.read(path))
    assert [line["n"] for _, line in found] == [1, 2, 3]
    assert found[1][0] == whole
    assert [line["n"] for _, line in siglog.read(path, after=whole)] == [3]


def test_any_word_of_a_caller_is_written_and_read_back(tmp_path: Path):
    words = ["Đèn đường", "\ud800", "line\nline\r\u2028", '"']
    log = SignatureLog(tmp_path / "signatures.log")
    assert log.append("issue", [{**REFUSED, "reason": word} for word in words]) == len(words)
    log.close()
    assert [line["reason"] for _, line in siglog.read(log.path)] == words


def test_the_last_number_is_found_behind_very_long_lines(tmp_path: Path):
    path = tmp_path / "signatures.log"
    log = SignatureLog(path)
    log.append("issue", [SIGNED])
    log.append("issue", [{**SIGNED, "subject": "x" * 200_000}])
    log.close()
    again = SignatureLog(path)
    assert again.append("issue", [SIGNED]) == 3
    again.close()


def test_refusals_that_a_crash_left_behind_are_delivered_once(rt: Runtime):
    home = rt.settings.signer_home
    home.mkdir()
    log = SignatureLog(home / "signatures.log")
    log.append("issue", [SIGNED, REFUSED])
    relay = Relay(rt.settings, rt.db, home)
    assert relay.deliver() == 1
    log.append("issue", [REFUSED])
    (home / "delivered").unlink()  # the crash came after the commit and before the mark
    again = Relay(rt.settings, rt.db, home)
    assert again.deliver() == 1
    log.close()
    with rt.db.read() as connection:
        found = [stored.event.number for stored in outbox.read(connection, names=("SignatureRefused",))]
    assert found == [2, 3]


def test_when_the_disk_refuses_a_line_no_answer_leaves_any_more(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    log = SignatureLog(tmp_path / "signatures.log")
    log.append("issue", [SIGNED])

    def full(descriptor: int) -> None:
        raise OSError(28, "No space left on device")

    with monkeypatch.context() as disk:
        disk.setattr("os.fdatasync", full)
        with pytest.raises(OSError, match="No space"):
            log.append("issue", [SIGNED])
    with pytest.raises(OSError, match="could not be written"):
        log.append("issue", [SIGNED])
    log.close()
    again = SignatureLog(tmp_path / "signatures.log")
    number = again.append("issue", [SIGNED])
    again.close()
    assert [line["n"] for _, line in siglog.read(tmp_path / "signatures.log")][-1] == number
