"""The log on disk: what was acknowledged is there, what was torn is not, and readers see whole records only."""

import os
import subprocess
import sys
import threading
from pathlib import Path

import pytest

from siem_rules import segments
from siem_rules.errors import SegmentsDamaged, StreamBusy


def payloads(stream: Path, start: int = 0) -> list[bytes]:
    """All that a reader sees."""
    return [record.payload for record in segments.read(stream, start, limit=1 << 30)]


def filled(stream: Path, count: int = 5) -> list[int]:
    """Write some records; return the offsets behind each."""
    writer = segments.Writer(stream)
    ends = [writer.append(b"line %d" % number) for number in range(count)]
    writer.sync(ends[-1])
    writer.close()
    return ends


def test_reader_sees_only_what_is_on_disk(tmp_path: Path) -> None:
    writer = segments.Writer(tmp_path)
    end = writer.append(b"one")
    assert payloads(tmp_path) == []
    writer.sync(end)
    assert payloads(tmp_path) == [b"one"]
    writer.append(b"two")
    assert payloads(tmp_path) == [b"one"]
    writer.close()
    assert payloads(tmp_path, end) == [b"two"]


@pytest.mark.parametrize("cut", range(1, 15))
def test_torn_tail_is_cut_and_writing_goes_on(tmp_path: Path, cut: int) -> None:
    ends = filled(tmp_path)
    [(_, path)] = segments.segment_files(tmp_path)
    os.truncate(path, ends[-1] - cut if cut < 14 else ends[-1])
    if cut == 14:  # a tail of garbage, as after a power cut
        with open(path, "ab") as file:
            file.write(b"\xff" * 9)
    writer = segments.Writer(tmp_path)
    expected = [b"line %d" % number for number in range(4 if cut < 14 else 5)]
    assert payloads(tmp_path) == expected
    writer.sync(writer.append(b"after"))
    writer.close()
    assert payloads(tmp_path) == [*expected, b"after"]


def test_damage_in_the_middle_is_named_not_skipped(tmp_path: Path) -> None:
    ends = filled(tmp_path)
    [(_, path)] = segments.segment_files(tmp_path)
    with open(path, "r+b") as file:
        file.seek(ends[1] + 10)
        file.write(b"X")
    found = []
    with pytest.raises(SegmentsDamaged) as caught:
        found.extend(record.payload for record in segments.read(tmp_path, 0))
    assert caught.value.fields["file"] == path.name
    assert caught.value.fields["offset"] == ends[1]


def test_one_writer_per_stream(tmp_path: Path) -> None:
    writer = segments.Writer(tmp_path)
    with pytest.raises(StreamBusy):
        segments.Writer(tmp_path)
    writer.close()
    segments.Writer(tmp_path).close()


def test_rolls_reads_across_segments_and_expires_old_ones(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(segments, "SEGMENT_BYTES", 100)
    ends = filled(tmp_path, 50)
    files = segments.segment_files(tmp_path)
    assert len(files) > 5
    assert payloads(tmp_path) == [b"line %d" % number for number in range(50)]
    assert payloads(tmp_path, ends[20]) == [b"line %d" % number for number in range(21, 50)]
    assert segments.record_at(tmp_path, ends[20]) == b"line 21"
    assert segments.expire(tmp_path, before=0, keep_bytes=0, older_than=1e12) == 0, "the detector still needs them"
    removed = segments.expire(tmp_path, before=ends[20], keep_bytes=0, older_than=0)
    left = segments.segment_files(tmp_path)
    assert removed == len(files) - len(left)
    assert left[0][0] <= ends[20]
    assert payloads(tmp_path)[-1] == b"line 49"
    assert segments.record_at(tmp_path, 0) is None


def test_group_commit_from_many_threads(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    writer, syncs, real = segments.Writer(tmp_path), [], os.fsync
    monkeypatch.setattr(os, "fsync", lambda descriptor: (syncs.append(1), real(descriptor))[1])

    def work(number: int) -> None:
        for place in range(20):
            end = writer.append(b"%d/%d" % (number, place))
            writer.sync(end)
            assert segments.synced(tmp_path) >= end

    threads = [threading.Thread(target=work, args=(number,)) for number in range(8)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    writer.close()
    assert len(payloads(tmp_path)) == 160
    assert len(syncs) <= 160


def test_acknowledged_lines_survive_kill_9(tmp_path: Path) -> None:
    """A writer that is killed in the middle of an append: what it acknowledged is there, and no half record."""
    program = (
        "import os, sys, pathlib; from siem_rules import segments\n"
        f"w = segments.Writer(pathlib.Path({str(tmp_path)!r}))\n"
        "for n in range(100):\n"
        "    w.sync(w.append(b'line %d' % n))\n"
        "    print(n, flush=True)\n"
        "os.write(w._file, b'\\0\\0\\0\\x09half')\n"
        "os.kill(os.getpid(), 9)\n"
    )
    done = subprocess.run([sys.executable, "-c", program], capture_output=True, timeout=60, check=False)
    acknowledged = len(done.stdout.split())
    assert acknowledged == 100
    segments.Writer(tmp_path).close()
    assert payloads(tmp_path) == [b"line %d" % number for number in range(100)]
