"""Child processes: what they are given, how they end, and that none is left over."""

from __future__ import annotations

import json
import os
import subprocess
import sys
import threading
import time
from pathlib import Path

import pytest

from lib.local.supervise import (
    REPOSITORY,
    Child,
    JobQueue,
    child_environment,
    end_leftovers,
    start_time,
)

SLEEP = "import time; print('ready', flush=True); time.sleep(600)"
STUBBORN = "import signal; signal.signal(signal.SIGTERM, signal.SIG_IGN); " + SLEEP


def start(folder: Path, program: str, **variables: str) -> Child:
    return Child([sys.executable, "-c", program], folder, child_environment(variables))


def test_a_child_s_lines_come_from_both_streams_and_its_exit_code_is_told(tmp_path: Path) -> None:
    child = start(tmp_path, "import sys; print('out'); print('err', file=sys.stderr); sys.exit(3)")
    assert sorted(child.lines()) == ["err", "out"]
    assert child.wait() == 3
    assert not child.running


def test_a_child_has_no_credentials_and_its_own_session(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("AWS_SECRET_ACCESS_KEY", "secret")
    monkeypatch.setenv("DATABASE_PASSWORD", "secret")
    program = "import json, os; print(json.dumps([dict(os.environ), os.getsid(0), os.getpid(), os.getcwd()]))"
    child = start(tmp_path, program, NAME="value", PYTHONHOME="/nowhere", LD_PRELOAD="/nowhere")
    environment, session, pid, folder = json.loads("".join(child.lines()))
    assert child.wait() == 0
    assert "secret" not in environment.values()
    assert environment["NAME"] == "value"
    assert environment["PYTHONPATH"] == str(REPOSITORY)
    assert not {"PYTHONHOME", "LD_PRELOAD"} & set(environment)
    assert session == pid
    assert Path(folder) == tmp_path.resolve()


def test_a_child_ends_when_asked(tmp_path: Path) -> None:
    child = start(tmp_path, SLEEP)
    lines = child.lines()
    assert next(lines) == "ready"
    child.end(grace=60)
    assert list(lines) == []
    assert child.wait() == 128 + 15


def test_a_child_that_does_not_listen_is_killed_after_the_grace(tmp_path: Path) -> None:
    child = start(tmp_path, STUBBORN)
    lines = child.lines()
    assert next(lines) == "ready"
    asked = time.monotonic()
    child.end(grace=0.3)
    assert list(lines) == []
    assert child.wait() == 128 + 9
    assert time.monotonic() - asked >= 0.3


def test_a_line_without_end_does_not_fill_memory(tmp_path: Path) -> None:
    child = start(tmp_path, "print('x' * 1_000_000)")
    lines = list(child.lines())
    assert child.wait() == 0
    assert max(len(line) for line in lines) <= 256 * 1024
    assert sum(len(line) for line in lines) == 1_000_000


def test_leftovers_of_another_server_are_ended(tmp_path: Path) -> None:
    folder = tmp_path / "training-1"
    folder.mkdir()
    process = subprocess.Popen([sys.executable, "-c", SLEEP], start_new_session=True)
    note = {"pid": process.pid, "started": start_time(process.pid)}
    (folder / "process.json").write_text(json.dumps(note))
    end_leftovers(tmp_path)
    assert process.wait(10) == -9
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize(
    "note", ["other", "{", '{"pid": "x", "started": 1}', '{"pid": 1, "started": null}', None]
)
def test_a_process_that_only_has_the_same_id_is_left_alone(tmp_path: Path, note: str | None) -> None:
    folder = tmp_path / "training-1"
    folder.mkdir()
    if note == "other":
        note = json.dumps({"pid": os.getpid(), "started": "another boot/1"})
    if note is not None:
        (folder / "process.json").write_text(note)
    end_leftovers(tmp_path)
    assert list(tmp_path.iterdir()) == []
    assert start_time(os.getpid()) is not None


def test_there_is_no_start_time_of_a_process_that_has_ended() -> None:
    process = subprocess.Popen([sys.executable, "-c", ""])
    process.wait()
    assert start_time(process.pid) is None


def test_the_queue_runs_so_many_at_once_in_order() -> None:
    queue = JobQueue(2)
    started: list[int] = []
    gates = [threading.Event() for _ in range(4)]

    def job(number: int) -> None:
        started.append(number)
        gates[number].wait(10)

    for number in range(4):
        queue.submit(str(number), lambda number=number: job(number))
    assert queue.full()
    assert queue.withdraw("2")
    assert not queue.withdraw("2")
    assert not queue.withdraw("0")
    gates[1].set()
    deadline = time.monotonic() + 10
    while 3 not in started and time.monotonic() < deadline:
        time.sleep(0.01)
    assert sorted(started) == [0, 1, 3]
    gates[0].set()
    gates[3].set()
    queue.join(10)
    assert not queue.busy()
    assert not queue.full()
