"""A build as a process, and the digest of what it leaves."""

import sys

from tools.fuzz.builds import TIMES, Bench, digest, stop


def test_a_digest_sees_names_and_bytes_and_no_times(tmp_path):
    (tmp_path / "a").mkdir()
    (tmp_path / "a" / "model").write_bytes(b"1")
    first = digest(tmp_path)
    (tmp_path / TIMES).write_text("3 s")
    assert digest(tmp_path) == first
    (tmp_path / "a" / "model").write_bytes(b"2")
    assert digest(tmp_path) != first
    (tmp_path / "a" / "model").rename(tmp_path / "a" / "other")
    (tmp_path / "a" / "other").write_bytes(b"1")
    assert digest(tmp_path) != first


def test_a_bench_runs_processes_in_its_folder(tmp_path):
    bench = Bench(tmp_path)
    assert bench.left() == []
    code = "import os, sys; open('made', 'w').write(os.environ['TZ']); print('Traceback'); sys.exit(5)"
    ended = bench.run([sys.executable, "-c", code], TZ="UTC")
    assert 0 <= ended.spoken_s < ended.seconds
    assert ended.code == 5 and ended.traceback and bench.left() == ["made"]
    words = bench.command("there", "--resume")
    assert words[-3:] == ["--out", "there", "--resume"] and "qdrop_w4a4" in words


def test_a_process_is_stopped_with_what_it_started(tmp_path):
    process = Bench(tmp_path).start(["sh", "-c", "sleep 60 & sleep 60"])
    stop(process)
    assert process.returncode == -9
