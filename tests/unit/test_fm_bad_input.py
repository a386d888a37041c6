"""Bad input at the container's doors: each mistake ends in one sentence that says what, where and what next.

The records are written by hand, byte by byte, so that they can be wrong in ways that no encoder allows.
"""

from __future__ import annotations

import asyncio
import gzip
import json
import os
import re
import resource
import signal
import struct
import subprocess
import sys
from collections.abc import Sequence
from pathlib import Path

import numpy as np
import pytest
from training_job import REPOSITORY, Job

from lib import fm
from lib.fm import serve, train

MAGIC = 0xCED7230A
FEATURES = 10
NAN, INFINITY = float("nan"), float("inf")


# --- records by hand ----------------------------------------------------------------------------------


def varint(number: int) -> bytes:
    number &= 2**64 - 1
    encoded = b""
    while number > 127:
        encoded += bytes([number & 127 | 128])
        number >>= 7
    return encoded + bytes([number])


def field(number: int, content: bytes) -> bytes:
    return varint(number << 3 | 2) + varint(len(content)) + content


def tensor(
    values: Sequence[float],
    keys: Sequence[int] | None = None,
    shape: Sequence[int] | None = None,
    *,
    double: bool = False,
) -> bytes:
    letter, kind = ("d", 3) if double else ("f", 2)
    content = field(1, struct.pack(f"<{len(values)}{letter}", *values))
    content += b"" if keys is None else field(2, b"".join(map(varint, keys)))
    content += b"" if shape is None else field(3, b"".join(map(varint, shape)))
    return field(kind, content)


def entry(number: int, value: bytes) -> bytes:
    return field(number, field(1, b"values") + field(2, value))


def framed(message: bytes) -> bytes:
    return struct.pack("<II", MAGIC, len(message)) + message + bytes(-len(message) % 4)


def record(features: bytes, *labels: float) -> bytes:
    label = entry(2, tensor(labels)) if labels else b""
    return framed(entry(1, features) + label)


def good(count: int, label: float = 3) -> bytes:
    pairs = [(number % 5, 5 + number % 5) for number in range(count)]
    return b"".join(record(tensor([1, 1], pair, [FEATURES]), label) for pair in pairs)


def third(bad: bytes) -> bytes:
    """Two good records, the bad one, and good ones behind it."""
    return good(2) + bad + good(3)


# --- training -----------------------------------------------------------------------------------------


@pytest.fixture
def job(tmp_path):
    made = Job(tmp_path / "ml")
    made.hyperparameters(feature_dim=str(FEATURES), mini_batch_size="4", epochs="2")
    return made


def failure(job: Job, *files: bytes, channel: str = "train") -> str:
    """Train on files of these bytes and return the reason of the failure, which is one clear sentence."""
    give(job, *files, channel=channel)
    return checked(job.failure())


def give(job: Job, *files: bytes, channel: str = "train") -> None:
    """Let a channel hold files of these bytes, part-0.pbr and so on, and nothing else."""
    folder = job.root / "input" / "data" / channel
    folder.mkdir(exist_ok=True)
    for path in folder.iterdir():
        path.unlink()
    for number, content in enumerate(files):
        (folder / f"part-{number}.pbr").write_bytes(content)


def checked(reason: str) -> str:
    assert reason.startswith("ClientError: ")
    assert reason.endswith(".")
    assert "\n" not in reason
    assert "Traceback" not in reason
    assert len(reason) < 400
    return reason


BAD_RECORDS = {
    "nan": (record(tensor([NAN, 1], [1, 6], [10]), 3), "holds nan in column 1, not a finite float32"),
    "infinite": (record(tensor([1, -INFINITY], [1, 6], [10]), 3), "holds -inf in column 6, not a finite"),
    "infinite, dense": (record(tensor([1] * 9 + [INFINITY]), 3), "holds inf in column 9, not a finite"),
    "infinite as a sum": (record(tensor([3e38, 3e38], [1, 1], [10]), 3), "whose sum is not a finite"),
    "too large for float32": (
        record(tensor([1e300, 1], [1, 6], [10], double=True), 3),
        "not a finite float32",
    ),
    "negative index": (record(tensor([1, 1], [1, -1], [10]), 3), "has index -1, outside its 10 columns"),
    "negative index of 32 bits": (record(tensor([1, 1], [1, 2**32 - 1], [10]), 3), "index 4294967295"),
    "too large index": (record(tensor([1, 1], [1, 10], [10]), 3), "index 10, outside its 10 columns"),
    "too large index, no width": (record(tensor([1, 1], [1, 10]), 3), "index 10, outside its 10 columns"),
    "other width": (record(tensor([1, 1], [1, 6], [12]), 3), "has 12 columns, feature_dim is 10"),
    "dense of other width": (record(tensor([1] * 9), 3), "has 9 columns, feature_dim is 10"),
    "two dimensions": (record(tensor([1] * 10, None, [2, 5]), 3), "several dimensions"),
    "fewer keys than values": (record(tensor([1, 1, 1], [1, 6], [10]), 3), "not as many keys as values"),
    "label is nan": (record(tensor([1, 1], [1, 6], [10]), NAN), "label that is not a finite"),
    "label is infinite": (record(tensor([1, 1], [1, 6], [10]), INFINITY), "label that is not a finite"),
    "no label": (record(tensor([1, 1], [1, 6], [10])), "has no label"),
    "two labels": (record(tensor([1, 1], [1, 6], [10]), 1, 2), "more than one label"),
    "no protobuf": (framed(b"\xff" * 20), "not a valid protobuf message"),
    "a length that no record has": (struct.pack("<II", MAGIC, 2**32 - 4) + bytes(40), "4,294,967,292 bytes"),
}


@pytest.mark.parametrize("case", BAD_RECORDS)
def test_a_bad_record_is_told_with_file_and_number(job, case):
    bad, why = BAD_RECORDS[case]
    reason = failure(job, good(9), third(bad))
    assert "train/part-1.pbr" in reason
    assert "record 2" in reason
    assert why in reason


BAD_FILES = {
    "empty": (b"", "is empty: it holds no records"),
    "truncated record": (good(9)[:-10], r"is truncated: record 8 at byte \d+ lacks 10 of its bytes"),
    "truncated header": (good(9) + struct.pack("<I", MAGIC), "is truncated: record 9"),
    "text": (b"1,2,3\n4,5,6\n", "is not recordIO-protobuf: it is text"),
    "gzip": (gzip.compress(good(9)), "is not recordIO-protobuf: it is gzip-compressed"),
    "parquet": (b"PAR1" + bytes(100), "is not recordIO-protobuf: it is a Parquet file"),
    "no labels": (b"".join(record(tensor([1], [1], [10])) for _ in range(3)), "has no labels"),
}


@pytest.mark.parametrize("case", BAD_FILES)
def test_a_bad_file_among_good_ones_is_named(job, case):
    content, why = BAD_FILES[case]
    reason = failure(job, good(9), content, good(9))
    assert reason.startswith("ClientError: train/part-1.pbr")
    assert re.search(why, reason)


@pytest.mark.parametrize("label", [2, 0.5, -1])
def test_a_classifiers_label_that_is_neither_0_nor_1_is_told(job, label):
    job.hyperparameters(feature_dim=str(FEATURES), predictor_type="binary_classifier")
    reason = failure(job, good(9, 1), good(5, 0) + good(1, label))
    assert f"labels 0 and 1, but record 5 of train/part-1.pbr has the label {label:g}" in reason


def test_a_file_that_cannot_be_read_is_named(job):
    give(job, good(9))
    (job.root / "input" / "data" / "train" / "part-1.pbr").symlink_to("/proc/self/mem")
    assert checked(job.failure()) == "ClientError: train/part-1.pbr cannot be read: Input/output error."


def test_a_folder_in_the_place_of_a_file_leaves_the_channel_without_files(job):
    give(job)
    (job.root / "input" / "data" / "train" / "part-0.pbr").mkdir()
    assert checked(job.failure()) == "ClientError: The channel `train` has no files."


@pytest.mark.parametrize("content", ["text/csv", "application/x-recordio", "application/json"])
def test_another_content_type_is_refused(job, content):
    job.describe("inputdataconfig", {"train": {"ContentType": content}})
    assert f"the content type {content}, not application/x-recordio-protobuf" in checked(job.failure())


def test_a_feature_dim_that_is_too_small_or_too_large_for_the_data_is_told(job):
    for wrong in (5, 50):
        job.hyperparameters(feature_dim=str(wrong))
        reason = failure(job, good(9))
        assert f"train/part-0.pbr: record 0 at byte 0 has 10 columns, feature_dim is {wrong}." in reason


@pytest.mark.parametrize(
    ("feature_dim", "num_factors", "needed"),
    [(2**31 - 1, 1000, "25.8 TB"), (10, 10**9, "120 GB"), (2**31 - 1, 2**31 - 1, "PB")],
)
def test_memory_is_estimated_before_it_is_taken(job, feature_dim, num_factors, needed):
    job.hyperparameters(feature_dim=str(feature_dim), num_factors=str(num_factors))
    reason = failure(job, b"".join(record(tensor([1, 1], [1, 6]), 3) for _ in range(9)))
    assert f"feature_dim {feature_dim:,} with num_factors {num_factors} needs" in reason
    assert needed in reason
    assert "are available. Lower num_factors" in reason


@pytest.mark.parametrize("feature_dim", ["0", "-1", str(2**31), "1e3", "ten"])
def test_a_feature_dim_that_is_none_is_refused(job, feature_dim):
    job.hyperparameters(feature_dim=feature_dim)
    assert "`feature_dim` must be" in checked(job.failure())


LARGE = "1" + "0" * 4000


@pytest.mark.parametrize(
    ("name", "value", "why"),
    [
        ("mini_batch_size", str(2**31), "must be 2147483647 or less"),
        ("num_factors", LARGE, r"must be 2147483647 or less, not '10{58}… \(4,003 characters\)\.$"),
        ("epochs", LARGE[:30], "must be 2147483647 or less"),
        ("eps", "1e-46", "must be 1.17"),
        ("factors_init_sigma", "1e308", "a number that float32 holds, at most 3.4e\\+38"),
        ("linear_lr", "1e39", "a number that float32 holds"),
    ],
)
def test_a_number_that_the_engine_cannot_hold_is_refused(job, name, value, why):
    job.hyperparameters(**{name: value})
    reason = checked(job.failure())
    assert f"`{name}`" in reason
    assert re.search(why, reason)


def test_values_that_overflow_in_the_first_batch_are_told_as_such(job):
    job.hyperparameters(feature_dim=str(FEATURES), mini_batch_size="4", factors_init_sigma="1e20")
    reason = failure(job, good(9))
    assert "the first mini-batch are not finite numbers: its values, up to 1, are too large" in reason
    assert reason.endswith("lower factors_init_sigma.")


def test_a_loss_that_rises_though_it_stays_finite_is_warned_of(job):
    job.hyperparameters(feature_dim=str(FEATURES), mini_batch_size="4", epochs="9", linear_lr="10")
    give(job, good(40, 3) + good(3, -3))
    log = "\n".join(job.run())
    assert re.search(r"WARNING .*The training rmse rose from .* lower the learning rates", log)


@pytest.mark.parametrize("way", [{}, {"local_algorithm": "bayesian"}])
def test_a_bad_test_channel_fails_before_the_training(job, way, capsys):
    give(job, good(9, 1))
    job.hyperparameters(feature_dim=str(FEATURES), predictor_type="binary_classifier", **way)
    job.describe("inputdataconfig", {"train": {}, "test": {}})
    assert "record 3 of test/part-0.pbr has the label 2" in failure(
        job, good(3, 1) + good(1, 2), channel="test"
    )
    assert "#quality_metric" not in capsys.readouterr().out


def test_malformed_configuration_is_told(job):
    for channel in ("x", None, 5, []):
        job.describe("inputdataconfig", {"train": channel})
        assert "the channel `train` by no JSON object" in checked(job.failure())
    job.describe("inputdataconfig", {"train": {}})
    job.describe("resourceconfig", {"hosts": 5})
    assert "`hosts` that are no list" in checked(job.failure())


def test_a_link_to_nothing_is_named(job):
    (job.root / "input" / "data" / "train" / "part-1.pbr").symlink_to("nowhere")
    assert checked(job.failure()) == "ClientError: The channel `train` has part-1.pbr, which is no file."


@pytest.mark.parametrize(("group", "rate"), [("linear", "1e25"), ("factors", "1e18")])
def test_divergence_says_which_rate_to_lower(job, group, rate):
    job.hyperparameters(feature_dim=str(FEATURES), mini_batch_size="4", epochs="20", **{f"{group}_lr": rate})
    reason = failure(job, good(40))
    assert "The training diverged in epoch 0" in reason
    assert f"Lower {group}_lr" in reason


def test_a_process_without_enough_memory_says_so(job):
    """The limit is that of the process (ulimit -v), which the estimate of the machine's memory need not know."""
    job.hyperparameters(feature_dim="2000000", num_factors="64")
    give(job, b"".join(record(tensor([1, 1], [1, 1999999]), 3) for _ in range(9)))
    done = subprocess.run(
        [sys.executable, "-m", "lib.fm", "train", "--root", str(job.root)],
        cwd=REPOSITORY,
        env=os.environ | {"REELBOOK_THREADS": "1"},
        preexec_fn=lambda: resource.setrlimit(resource.RLIMIT_AS, (2**30, 2**30)),
        capture_output=True,
        text=True,
        timeout=120,
    )
    assert done.returncode == 1
    assert done.stderr == ""
    reason = checked((job.root / "output" / "failure").read_text())
    assert re.search(r"not enough memory|of memory", reason)
    assert "GB" in reason


def test_values_that_are_repeated_or_0_or_missing_are_no_mistake(job):
    twice = record(tensor([1, 1, 1], [6, 1, 1], [10]), 3)
    nothing = record(tensor([], [], [10]), 3)
    zero = record(tensor([0, 1], [1, 6], [10]), 0)
    give(job, third(twice) + nothing + zero)
    assert train.main(job.root) == 0
    assert fm.load(job.root / "model").feature_dim == FEATURES


# --- serving ------------------------------------------------------------------------------------------

JSON, LINES, RECORDIO = "application/json", "application/jsonlines", "application/x-recordio-protobuf"


def ask(body: bytes, content_type: str, *, times: int = 1) -> tuple[int, str]:
    """Post a body, repeated so many times, to the web application of a model of 6 features."""
    rng = np.random.default_rng(0)
    model = fm.Model(0.5, rng.normal(0, 1, 6), rng.normal(0, 0.5, (6, 2)))
    chunks = [{"type": "http.request", "body": body, "more_body": True}] * times
    incoming = iter([*chunks, {"type": "http.request", "body": b"", "more_body": False}])
    sent = []

    async def receive() -> dict:
        return next(incoming)

    async def send(message: dict) -> None:
        sent.append(message)

    scope = {
        "type": "http",
        "method": "POST",
        "path": "/invocations",
        "headers": [(b"content-type", content_type.encode())],
        "query_string": b"",
    }
    asyncio.run(serve.application(model)(scope, receive, send))
    return sent[0]["status"], b"".join(message.get("body", b"") for message in sent[1:]).decode()


def instances(*features: object) -> bytes:
    return json.dumps({"instances": [{"data": {"features": found}} for found in features]}).encode()


def of(keys: list, values: list) -> dict:
    return {"keys": keys, "shape": [6], "values": values}


GOOD = of([1], [1])
BAD_REQUESTS = {
    "malformed": (JSON, b'{"instances": [', "The request is not JSON: expecting value at column 16."),
    "malformed line": (
        LINES,
        b'{"features":[1,2,3,4,5,6]}\n{"fea\n',
        "Line 2 is not JSON: unterminated string",
    ),
    "nested deeply": (JSON, b"[" * 200_000, "The request is not JSON: it is nested too deeply."),
    "a number of 5,000 digits": (JSON, b"[" + b"9" * 5000 + b"]", "number of too many digits"),
    "another encoding": (JSON, '{"instances": []}'.encode("utf-16"), "it is not UTF-8 text"),
    "nothing": (JSON, b"", "The request is not JSON"),
    "no instances": (JSON, b'{"instances": []}', "The request holds no examples."),
    "nan": (JSON, b'{"instances": [{"features": [1, 2, 3, 4, 5, NaN]}]}', "nan in place 5"),
    "infinite": (JSON, b'{"instances": [{"features": [1, -Infinity, 3, 4, 5, 6]}]}', "-inf in place 1"),
    "too large for float32": (JSON, instances(GOOD, of([1], [1e39])), r"1e\+39 in place 0"),
    "a word": (JSON, instances(GOOD, of([1], ["a"])), 'Instance 1 has "values" that are not numbers: "a"'),
    "null": (JSON, instances(of([1], [None])), "null in place 0"),
    "negative key": (JSON, instances(GOOD, of([-1], [1])), "Instance 1 has a key that is not .* 0 to 5: -1"),
    "too large key": (JSON, instances(of([6], [1])), "key that is not a whole number from 0 to 5: 6."),
    "huge key": (JSON, instances(of([2**63], [1])), "9223372036854775808"),
    "half a key": (JSON, instances(of([0.5], [1])), "0 to 5: 0.5."),
    "too many features": (JSON, b'{"instances": [{"features": [1, 2, 3, 4, 5, 6, 7]}]}', "has 7 features"),
    "too few features": (LINES, b'{"features":[1,2,3,4,5,6]}\n\n{"features":[1]}', "Line 3 has 1 features"),
    "another shape": (JSON, instances({"keys": [1], "shape": [7], "values": [1]}), r"the shape \[7\]"),
    "more keys than values": (JSON, instances(of([1, 2], [1])), "has 2 keys but 1 values"),
    "no finite score": (JSON, instances(GOOD, of([1, 2], [1e38, 1e38])), "Instance 1 has no finite score"),
    "records: nan": (RECORDIO, record(tensor([NAN], [1], [6])), "The request: record 0 .* not a finite"),
    "records: too large index": (RECORDIO, record(tensor([1], [6])), "index 6, outside its 6 columns"),
    "records: another width": (RECORDIO, record(tensor([1] * 7)), "has 7 columns"),
    "records: truncated": (
        RECORDIO,
        record(tensor([1], [1], [6]))[:-6],
        "The request is truncated: record 0",
    ),
    "records: text": (RECORDIO, b"1,2,3\n", "The request is not recordIO-protobuf: it is text"),
    "records: none": (RECORDIO, b"", "The request is empty"),
}


@pytest.mark.parametrize("case", BAD_REQUESTS)
def test_a_bad_request_is_refused_with_a_sentence(case):
    content_type, body, why = BAD_REQUESTS[case]
    status, sentence = ask(body, content_type)
    assert status == 400
    assert re.search(why, sentence), sentence
    assert sentence.endswith(".\n")
    assert sentence.count("\n") == 1
    assert len(sentence) < 300


def test_a_huge_request_is_refused_before_it_is_read_to_its_end():
    status, sentence = ask(bytes(2**20), JSON, times=101)
    assert (status, sentence) == (413, "The request is larger than 100 MiB.\n")


def test_repeated_keys_of_a_request_are_added_up():
    _, once = ask(instances(of([1], [2])), JSON)
    status, twice = ask(instances(of([1, 1], [1, 1])), JSON)
    assert status == 200
    assert json.loads(twice)["predictions"][0]["score"] == pytest.approx(
        json.loads(once)["predictions"][0]["score"], rel=1e-6
    )


@pytest.mark.parametrize(
    ("content", "why"),
    [(b"", "it is neither a gzipped tar archive nor"), (b"\x1f\x8b" + bytes(50), "cannot be read")],
    ids=["empty", "damaged"],
)
def test_a_server_with_a_damaged_model_says_so_and_ends(tmp_path, capsys, content, why):
    (tmp_path / "model").mkdir()
    (tmp_path / "model" / "model.tar.gz").write_bytes(content)
    before = signal.getsignal(signal.SIGTERM)
    try:
        assert serve.main(tmp_path) == 1
    finally:
        signal.signal(signal.SIGTERM, before)
    sentence = capsys.readouterr().err
    assert sentence.startswith(f"ClientError: {Path(tmp_path, 'model', 'model.tar.gz')} cannot be read as a")
    assert why in sentence
    assert sentence.count("\n") == 1
