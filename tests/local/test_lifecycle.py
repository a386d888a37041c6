"""The local AWS starts, is found, stops, survives kills, and never touches what is not its own."""

from __future__ import annotations

import os
import signal
import socket
import sqlite3
import stat
import subprocess
import sys
import threading
import time
from collections.abc import Iterator
from contextlib import suppress
from pathlib import Path
from typing import Any

import boto3
import pytest
from botocore.config import Config
from botocore.exceptions import BotoCoreError, ClientError

from lib import local
from lib.errors import ConnectionFailed, ReelbookError
from lib.local.__main__ import main
from lib.local.home import Address, Home
from lib.local.lifecycle import answers
from lib.local.objects import Objects
from lib.local.serve import IDLE_VARIABLE, QUOTA_VARIABLE
from lib.local.supervise import start_time

MIB = 1024**2


@pytest.fixture
def root(tmp_path: Path) -> Iterator[Path]:
    root = tmp_path / "root"
    yield root
    local.stop(root)


def client(server: local.Server) -> Any:
    return boto3.client(
        "s3",
        endpoint_url=server.endpoint,
        aws_access_key_id=server.credentials.access_key,
        aws_secret_access_key=server.credentials.secret_key,
        region_name="us-east-1",
        config=Config(retries={"total_max_attempts": 1}),
    )


def kill(server: local.Server) -> None:
    os.kill(server.pid, signal.SIGKILL)
    deadline = time.monotonic() + 5
    while start_time(server.pid) is not None and time.monotonic() < deadline:
        time.sleep(0.01)


def test_it_is_started_once_found_again_and_stopped(root: Path) -> None:
    assert local.status(root) is None
    first = local.start(root)
    assert local.start(root) == local.status(root) == first
    assert first.endpoint == f"http://127.0.0.1:{first.port}"
    assert answers(first)
    assert local.stop(root) is True
    assert local.status(root) is None
    assert local.stop(root) is False
    assert not answers(first)


def test_two_starts_at_once_make_one_server(root: Path) -> None:
    command = [sys.executable, "-m", "lib.local", "start", "--root", str(root)]
    started = [subprocess.Popen(command, stdout=subprocess.PIPE, text=True) for _ in range(3)]
    said = {process.communicate(timeout=60)[0] for process in started}
    assert [process.returncode for process in started] == [0, 0, 0]
    assert len(said) == 1
    assert f"process {local.start(root).pid}" in said.pop()


def test_state_credentials_and_port_survive_a_restart(root: Path) -> None:
    first = local.start(root)
    client(first).create_bucket(Bucket="kept")
    client(first).put_object(Bucket="kept", Key="k", Body=b"content")
    local.stop(root)
    second = local.start(root)
    assert (second.port, second.credentials) == (first.port, first.credentials)
    assert second.pid != first.pid
    assert client(second).get_object(Bucket="kept", Key="k")["Body"].read() == b"content"


def test_a_kill_loses_nothing_that_was_acknowledged_and_leaves_no_rest(root: Path) -> None:
    acknowledged: dict[str, bytes] = {}

    def put(s3: Any, worker: int, round_: int) -> None:
        with suppress(ClientError, BotoCoreError):
            for number in range(10_000):
                key, data = f"{worker}/{number % 7}", os.urandom(50_000 + number) + bytes([round_])
                before = acknowledged.pop(key, b"")
                s3.put_object(Bucket="bucket", Key=key, Body=data)
                acknowledged[key] = data
                assert data != before

    for round_ in range(3):
        server = local.start(root)
        s3 = client(server)
        s3.create_bucket(Bucket="bucket")
        upload = s3.create_multipart_upload(Bucket="bucket", Key="unfinished")["UploadId"]
        s3.upload_part(Bucket="bucket", Key="unfinished", UploadId=upload, PartNumber=1, Body=b"part")
        threads = [threading.Thread(target=put, args=(client(server), worker, round_)) for worker in range(3)]
        for thread in threads:
            thread.start()
        time.sleep(0.3 + 0.1 * round_)
        kill(server)
        for thread in threads:
            thread.join()

    s3 = client(local.start(root))
    assert acknowledged
    for key, data in acknowledged.items():
        assert s3.get_object(Bucket="bucket", Key=key)["Body"].read() == data
    stored = s3.list_objects_v2(Bucket="bucket")["KeyCount"]
    assert len(list((root / "s3" / "blobs").iterdir())) == stored + 3  # the three unfinished uploads


def test_files_are_private(root: Path) -> None:
    local.start(root)
    assert stat.S_IMODE(root.stat().st_mode) == 0o700
    assert stat.S_IMODE((root / "credentials.json").stat().st_mode) == 0o600
    assert stat.S_IMODE((root / "server.json").stat().st_mode) == 0o600
    assert Home(root).credentials().secret_key not in (root / "server.log").read_text()


def test_credentials_differ_between_folders(tmp_path: Path) -> None:
    homes = [Home(tmp_path / name) for name in "ab"]
    for home in homes:
        home.prepare()
    assert homes[0].credentials() != homes[1].credentials()
    assert homes[0].credentials() == homes[0].credentials()


def test_a_stale_note_of_another_process_is_no_server(root: Path) -> None:
    home = Home(root)
    home.prepare()
    home.write_address(Address(port=1, pid=os.getpid(), started="long ago"))
    assert local.status(root) is None
    assert local.stop(root) is False
    assert local.start(root).pid != os.getpid()


def test_a_process_that_does_not_answer_is_said(root: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("lib.local.lifecycle._PING_SECONDS", 0.2)
    server = local.start(root)
    os.kill(server.pid, signal.SIGSTOP)
    with pytest.raises(ConnectionFailed, match="does not answer"):
        local.start(root)
    kill(server)
    assert local.start(root).pid != server.pid


def test_the_remembered_port_is_given_up_where_it_is_taken(root: Path) -> None:
    port = local.start(root).port
    local.stop(root)
    with socket.create_server(("127.0.0.1", port)):
        assert local.start(root).port != port


def test_a_port_in_use_is_said_in_one_sentence(root: Path) -> None:
    with socket.create_server(("127.0.0.1", 0)) as taken:
        port = taken.getsockname()[1]
        with pytest.raises(ConnectionFailed, match=rf"^Port {port} is in use by another program\. Choose"):
            local.start(root, port)
    server = local.start(root, port)
    assert server.port == port
    with pytest.raises(ConnectionFailed, match=f"already up on port {port}"):
        local.start(root, port + 1)


def test_two_servers_do_not_share_a_folder(root: Path) -> None:
    local.start(root)
    command = [sys.executable, "-m", "lib.local", "serve", "--root", str(root)]
    second = subprocess.run(command, capture_output=True, text=True, timeout=60)
    assert second.returncode == 1
    assert second.stderr.startswith("error: Another local AWS already serves the folder")


def test_it_leaves_by_itself_when_idle(root: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv(IDLE_VARIABLE, "0.5")
    server = local.start(root)
    deadline = time.monotonic() + 10
    while start_time(server.pid) is not None and time.monotonic() < deadline:
        time.sleep(0.05)
    assert start_time(server.pid) is None
    assert "leaving" in (root / "server.log").read_text()


@pytest.mark.parametrize("value", ["soon", "-1"])
def test_a_variable_that_is_no_number_is_said(
    root: Path, monkeypatch: pytest.MonkeyPatch, value: str
) -> None:
    monkeypatch.setenv(QUOTA_VARIABLE, value)
    with pytest.raises(ConnectionFailed, match=QUOTA_VARIABLE):
        local.start(root)


def test_a_full_disk_is_said_and_leaves_nothing_half_written(
    root: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv(QUOTA_VARIABLE, str(12 * MIB))
    server = local.start(root)
    s3, blobs = client(server), root / "s3" / "blobs"
    s3.create_bucket(Bucket="bucket")
    s3.put_object(Bucket="bucket", Key="first", Body=bytes(6 * MIB))
    with pytest.raises(ClientError, match="quota of the local AWS is full") as caught:
        s3.put_object(Bucket="bucket", Key="second", Body=bytes(7 * MIB))
    assert caught.value.response["ResponseMetadata"]["HTTPStatusCode"] == 507
    with pytest.raises(ClientError, match="full"):
        s3.put_object(Bucket="bucket", Key="first", Body=bytes(7 * MIB))
    assert [len(s3.get_object(Bucket="bucket", Key="first")["Body"].read()), len(list(blobs.iterdir()))] == [
        6 * MIB,
        1,
    ]
    upload = {"Bucket": "bucket", "Key": "m"}
    upload["UploadId"] = s3.create_multipart_upload(**upload)["UploadId"]
    part = s3.upload_part(**upload, PartNumber=1, Body=bytes(5 * MIB))
    named = {"Parts": [{"PartNumber": 1, "ETag": part["ETag"]}]}
    with pytest.raises(ClientError, match="full"):
        s3.complete_multipart_upload(**upload, MultipartUpload=named)
    s3.abort_multipart_upload(**upload)
    s3.delete_object(Bucket="bucket", Key="first")
    s3.put_object(Bucket="bucket", Key="second", Body=bytes(7 * MIB))
    assert local.start(root) == server


def test_a_damaged_index_is_said_in_one_sentence(root: Path) -> None:
    local.start(root)
    local.stop(root)
    (root / "s3" / "index.db").write_bytes(b"not a database " * 1000)
    with pytest.raises(ConnectionFailed, match=r"cannot read its index of objects .* local reset"):
        local.start(root)


def test_an_index_of_a_later_version_is_left_alone(tmp_path: Path) -> None:
    Objects(tmp_path).close()
    database = sqlite3.connect(tmp_path / "s3" / "index.db")
    database.execute("PRAGMA user_version = 99")
    database.close()
    with pytest.raises(ReelbookError, match="version 99"):
        Objects(tmp_path)


def test_damaged_credentials_are_said(root: Path) -> None:
    home = Home(root)
    home.prepare()
    (root / "credentials.json").write_text("{}")
    with pytest.raises(ReelbookError, match=r"credentials in .* cannot be read"):
        home.credentials()


# ---- reset


def test_a_reset_deletes_everything_and_a_new_start_is_fresh(root: Path) -> None:
    first = local.start(root)
    client(first).create_bucket(Bucket="bucket")
    assert local.reset(root) is True
    assert start_time(first.pid) is None
    assert {path.name for path in root.iterdir()} <= {"start.lock"}
    assert local.reset(root) is False
    second = local.start(root)
    assert client(second).list_buckets()["Buckets"] == []
    assert second.credentials != first.credentials


def test_nothing_of_a_strange_folder_is_touched(tmp_path: Path) -> None:
    (tmp_path / "precious").write_text("data")
    with pytest.raises(ReelbookError, match="nothing was deleted"):
        local.reset(tmp_path)
    with pytest.raises(ReelbookError, match="holds precious, so it is not the local AWS's own"):
        local.start(tmp_path)
    assert [path.name for path in tmp_path.iterdir()] == ["precious"]


def test_a_reset_follows_no_link_out_of_the_folder(root: Path, tmp_path: Path) -> None:
    outside = tmp_path / "outside"
    outside.mkdir()
    (outside / "precious").write_text("data")
    Home(root).prepare()
    (root / "link").symlink_to(outside)
    assert local.reset(root) is True
    assert (outside / "precious").read_text() == "data"


def test_a_folder_that_cannot_be_made_is_said(tmp_path: Path) -> None:
    file = tmp_path / "file"
    file.write_text("")
    with pytest.raises(ReelbookError, match="cannot use the folder"):
        local.start(file / "root")


# ---- the command


def test_the_command_says_what_it_did(root: Path, capsys: pytest.CaptureFixture[str]) -> None:
    def run(action: str, *options: str) -> tuple[int, str]:
        status = main([action, "--root", str(root), *options])
        said = capsys.readouterr()
        return status, said.out + said.err

    assert run("status") == (3, "The local AWS is not up.\n")
    status, said = run("start")
    assert status == 0
    assert said.startswith("The local AWS is up at http://127.0.0.1:")
    assert run("status") == (0, said)
    assert run("start", "--port", "1")[0] == 1
    assert run("stop") == (0, "Stopped the local AWS.\n")
    assert run("stop") == (0, "The local AWS was not up.\n")
    assert run("reset") == (0, f"Deleted the state of the local AWS in {root}.\n")
    assert run("reset") == (0, f"Nothing to delete in {root}.\n")


def test_it_can_be_served_in_the_foreground_until_interrupted(root: Path) -> None:
    command = [sys.executable, "-m", "lib.local", "serve", "--root", str(root)]
    with subprocess.Popen(command, stdout=subprocess.PIPE, text=True) as process:
        assert process.stdout is not None
        said = process.stdout.readline()
        server = local.start(root)
        assert said == f"The local AWS serves {root} at {server.endpoint}\n"
        assert server.pid == process.pid
        process.send_signal(signal.SIGINT)
        assert process.wait(timeout=20) == 0


def test_the_variables_it_prints_point_any_program_at_it(root: Path) -> None:
    script = (
        'set -eu; eval "$("$0" -m lib.local env --root "$1")"; '
        '"$0" -c "import boto3; boto3.client(\'s3\').create_bucket(Bucket=\'by-env\')"; echo "$NO_PROXY"'
    )
    elsewhere = {
        "AWS_PROFILE": "mine",
        "AWS_SESSION_TOKEN": "x",
        "AWS_ACCESS_KEY_ID": "mine",
        "NO_PROXY": "example.com",
    }
    done = subprocess.run(
        ["sh", "-c", script, sys.executable, str(root)],
        env={**os.environ, **elsewhere},
        cwd=Path(__file__).parents[2],
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 0, done.stderr
    assert done.stdout == "example.com,127.0.0.1,localhost\n"
    server = local.status(root)
    assert server
    assert [bucket["Name"] for bucket in client(server).list_buckets()["Buckets"]] == ["by-env"]
