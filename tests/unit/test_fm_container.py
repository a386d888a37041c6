"""The container contract: real training and serving processes on a folder laid out as SageMaker does."""

from __future__ import annotations

import io
import json
import re
import signal
import socket
import struct
import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager
from http.client import HTTPConnection
from pathlib import Path

import numpy as np
import pytest
from scipy import sparse
from training_job import FEATURES, HYPERPARAMETERS, REPOSITORY, Job, ratings, values

from lib import fm, recordio
from lib.fm import artifact, formats, train
from lib.fm.fit import Training
from lib.fm.hyperparameters import validate


@pytest.fixture
def job(tmp_path):
    return Job(tmp_path / "ml")


def trained(X, y, hyperparameters) -> fm.Model:
    training = Training(X, y, validate(hyperparameters))
    for _ in training:
        pass
    return training.model()


def test_a_training_job_writes_log_metrics_and_model(job):
    X_test, y_test = ratings(300, seed=1)
    job.channel("test", X_test, y_test)
    log = job.run()
    assert not (job.root / "output" / "failure").exists()
    stamped = re.compile(r"\[\d\d/\d\d/\d{4} \d\d:\d\d:\d\d (INFO|WARNING) \d+\] \S")
    assert all(stamped.match(line) or line.startswith("#metrics {") for line in log)

    by_epoch = values(log, r"#quality_metric: host=\S+, epoch=\S+, train rmse <loss>=(\S+)")
    assert len(by_epoch) == 4
    assert by_epoch == sorted(by_epoch, reverse=True)
    assert len(values(log, r"#quality_metric: host=algo-1, epoch=\d, batch=0 train rmse <loss>=(\S+)$")) == 4
    assert values(log, r"#quality_metric: host=\S+, train rmse <loss>=(\S+)") == [by_epoch[-1]]
    for name in ("mse", "absolute_loss"):
        assert len(values(log, rf"epoch=\d, train {name} <loss>=(\S+)")) == 4
    assert values(log, r"#progress_metric: host=algo-1, completed (\S+) % of epochs") == [25, 50, 75, 100]
    assert all(
        rate > 0 for rate in values(log, r"#throughput_metric: host=algo-1, train throughput=(\S+) records")
    )

    model = fm.load(job.root / "model")
    rmse = float(np.sqrt(np.mean((model.predict(X_test) - y_test) ** 2)))
    assert values(log, r"#quality_metric: host=\S+, test rmse <loss>=(\S+)") == [
        pytest.approx(rmse, rel=1e-5)
    ]
    assert values(log, r"#test_score \(algo-1\) : \('rmse', (\S+)\)") == [pytest.approx(rmse, rel=1e-5)]
    assert rmse < np.std(y_test)
    assert [found.name for found in (job.root / "model").iterdir()] == ["model_algo-1"]
    assert model.training_parameters["_tuning_objective_metric"] == "test:rmse"

    metrics = [json.loads(line.removeprefix("#metrics ")) for line in log if line.startswith("#metrics ")]
    for record in metrics:
        assert record["EndTime"] >= record["StartTime"]
        assert record["Dimensions"]["Algorithm"] == "factorization-machines"
        assert record["Dimensions"]["Host"] == "algo-1"
        assert record["Dimensions"]["Operation"] == "training"
        assert all(set(value) == {"sum", "count", "min", "max"} for value in record["Metrics"].values())
    assert len(metrics) == 6


def test_a_second_process_finds_the_kernels_compiled_and_repeats_every_bit(job, tmp_path):
    cache = {"NUMBA_CACHE_DIR": str(tmp_path / "cache")}
    assert sum("Compiled the kernels" in line for line in job.run(**cache)) == 1
    first = (job.root / "model" / "model_algo-1").read_bytes()
    assert not any("Compiled the kernels" in line for line in job.run(**cache))
    assert (job.root / "model" / "model_algo-1").read_bytes() == first
    job.run(**cache, REELBOOK_FM_SEED="4")
    assert (job.root / "model" / "model_algo-1").read_bytes() != first


def test_the_classifier_has_its_own_metrics(job, capfd):
    X, y = ratings(600)
    labels = (y > 3.5).astype(np.float32)
    job.channel("train", X, labels)
    job.channel("test", *ratings(1))
    job.channel("test", X[:100], labels[:100])
    job.hyperparameters(predictor_type="binary_classifier", epochs="30")
    assert train.main(job.root) == 0
    log = capfd.readouterr().out.splitlines()
    for name, kind in (
        ("binary_classification_accuracy", "score"),
        ("binary_classification_cross_entropy", "loss"),
        ("binary_f_1.000", "score"),
    ):
        pattern = rf"{re.escape(name)} <{kind}>=(\S+)"
        assert len(values(log, rf"epoch=\d+, train {pattern}")) == 30
        assert len(values(log, rf"host=algo-1, train {pattern}")) == 1
        assert len(values(log, rf"host=algo-1, test {pattern}")) == 1
    assert values(log, r"test binary_classification_accuracy <score>=(\S+)")[0] > 0.7


def test_files_are_taken_in_the_order_of_their_names(job):
    X, y = ratings(950)
    job.channel("train", X[500:], y[500:], "part-1.pbr")
    job.channel("train", X[:500], y[:500], "part-0.pbr")
    assert train.main(job.root) == 0
    np.testing.assert_array_equal(fm.load(job.root / "model").factors, trained(X, y, HYPERPARAMETERS).factors)


def test_dense_records_train_their_zeros_too(job):
    rng = np.random.default_rng(5)
    X = rng.normal(0, 1, (300, 6)) * (rng.random((300, 6)) < 0.5)
    y = X[:, 0] - X[:, 1] * X[:, 2]
    job.channel("train", X.astype(np.float32), y.astype(np.float32))
    dense = HYPERPARAMETERS | {"feature_dim": "6", "mini_batch_size": "2"}
    job.hyperparameters(**dense)
    assert train.main(job.root) == 0
    model = fm.load(job.root / "model")
    X = X.astype(np.float32)
    as_matrix, as_sparse = trained(X, y, dense), trained(sparse.csr_matrix(X), y, dense)
    np.testing.assert_array_equal(model.factors, as_matrix.factors)
    assert not np.array_equal(model.factors, as_sparse.factors)


def test_sigterm_saves_the_model_so_far_and_exits_with_0(job):
    job.hyperparameters(epochs="100000000")
    process = job.start()
    assert process.stdout is not None
    for line in process.stdout:
        if "epoch=3, train rmse" in line:
            break
    process.send_signal(signal.SIGTERM)
    output, errors = process.communicate(timeout=30)
    assert errors == ""
    assert process.returncode == 0
    assert "Asked to stop" in output
    assert fm.load(job.root / "model").feature_dim == FEATURES
    assert not (job.root / "output" / "failure").exists()


def test_a_user_mistake_fails_without_a_traceback(job):
    job.hyperparameters(num_factor="5")
    process = job.start()
    output, errors = process.communicate(timeout=30)
    assert process.returncode == 1
    reason = (
        "ClientError: Factorization Machines has no hyperparameter `num_factor`. Did you mean `num_factors`?"
    )
    assert (job.root / "output" / "failure").read_text() == reason
    assert reason in output
    assert "Traceback" not in output + errors


def test_a_missing_channel_is_named(job):
    job.describe("inputdataconfig", {"test": {}})
    assert job.failure() == "ClientError: The job has no channel `train`."


def test_an_empty_channel_is_named(job):
    job.describe("inputdataconfig", {"train": {}, "test": {}})
    assert job.failure() == "ClientError: The channel `test` has no files."


def test_an_unknown_channel_is_refused(job):
    job.channel("tests", *ratings(5))
    assert "no channel `tests`, only train and test. Did you mean `test`?" in job.failure()


def test_another_feature_dim_than_the_data_have_is_told(job):
    job.hyperparameters(feature_dim="61")
    reason = job.failure()
    assert reason.startswith("ClientError: train/part-0.pbr: ")
    assert "60" in reason
    assert "61" in reason


@pytest.mark.parametrize("content", [b"", b"user,item\n1,2\n", bytes(64)], ids=["empty", "csv", "zeros"])
def test_a_file_that_is_not_recordio_is_named(job, content):
    (job.root / "input" / "data" / "train" / "part-0.pbr").write_bytes(content)
    assert job.failure().startswith("ClientError: train/part-0.pbr")


def test_a_truncated_file_is_named(job):
    path = job.root / "input" / "data" / "train" / "part-0.pbr"
    path.write_bytes(path.read_bytes()[:-10])
    assert job.failure().startswith("ClientError: train/part-0.pbr")


def test_data_without_labels_are_refused(job):
    job.channel("train", ratings(50)[0], None)
    assert job.failure() == "ClientError: train/part-0.pbr has no labels."


def test_divergence_names_the_learning_rates(job):
    job.hyperparameters(factors_lr="1e20")
    reason = job.failure()
    assert reason.startswith("ClientError: The training diverged")
    assert "linear_lr 0.05" in reason


@pytest.mark.parametrize("extension", [{}, {"local_algorithm": "bayesian"}], ids=["adam", "bayesian"])
def test_a_model_larger_than_the_memory_is_refused_with_its_size(job, extension):
    X, y = ratings(50)
    largest = 2**31 - 1
    job.channel("train", sparse.csr_matrix((X.data, X.indices, X.indptr), shape=(50, largest)), y)
    job.hyperparameters(feature_dim=str(largest), num_factors="1000", **extension)
    reason = job.failure()
    assert reason.startswith("ClientError: ")
    assert re.search(r"needs (about )?[\d,.]+ [TG]B of memory, (and )?[\d.]+ [GM]B are available", reason)


def test_unscaled_features_are_warned_about(job, capfd):
    X, y = ratings(50)
    X = sparse.csr_matrix(X.multiply(1994).astype(np.float32))
    job.channel("train", X, y)
    job.hyperparameters(bias_lr="0", linear_lr="0", factors_lr="0")
    assert train.main(job.root) == 0
    assert re.search(r"WARNING \d+\] Feature \d+ holds values up to 1994", capfd.readouterr().out)


@pytest.mark.parametrize(
    ("name", "content", "message"),
    [
        ("resourceconfig", {"current_host": "algo-1", "hosts": ["algo-1", "algo-2"]}, "the job has 2"),
        ("inputdataconfig", {"train": {"ContentType": "text/csv"}}, "content type text/csv"),
        ("inputdataconfig", {"train": {"TrainingInputMode": "Pipe"}}, "TrainingInputMode Pipe"),
        ("inputdataconfig", {"train": {"CompressionType": "Gzip"}}, "CompressionType Gzip"),
        ("hyperparameters", ["epochs"], "hyperparameters.json is not a JSON object"),
    ],
)
def test_a_job_that_the_engine_cannot_do_is_refused(job, name, content, message):
    job.describe(name, content)
    assert message in job.failure()


def test_a_missing_configuration_is_named(job):
    (job.config / "hyperparameters.json").unlink()
    assert job.failure() == "ClientError: The job has no hyperparameters.json."


def test_a_model_that_cannot_be_written_is_an_algorithm_error(job):
    (job.root / "model").write_text("in the way")
    reason = job.failure()
    assert reason.startswith("AlgorithmError: ")
    assert str(job.root / "model") in reason


# ---- serving


@contextmanager
def serving(root: Path) -> Iterator[HTTPConnection]:
    """Serve the model under a folder in a process of its own, and give a connection to it."""
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port = probe.getsockname()[1]
    command = [sys.executable, "-m", "lib.fm", "serve", "--root", str(root), "--port", str(port)]
    process = subprocess.Popen(command, cwd=REPOSITORY, stdout=subprocess.PIPE, stderr=subprocess.PIPE)
    connection = HTTPConnection("127.0.0.1", port, timeout=10)
    try:
        for _ in range(300):
            try:
                connection.connect()
                break
            except ConnectionRefusedError:
                assert process.poll() is None
                time.sleep(0.05)
        yield connection
    finally:
        connection.close()
        process.send_signal(signal.SIGTERM)
        _, errors = process.communicate(timeout=20)
    assert errors == b""
    assert process.returncode == 0


def some_model(predictor_type: str) -> fm.Model:
    rng = np.random.default_rng(3)
    return fm.Model(0.5, rng.normal(0, 1, 6), rng.normal(0, 0.5, (6, 2)), predictor_type)


def post(connection, body, content_type, accept="application/json"):
    connection.request("POST", "/invocations", body, {"Content-Type": content_type, "Accept": accept})
    response = connection.getresponse()
    return response.status, response.headers.get("content-type"), response.read()


def as_recordio(X, y=None) -> bytes:
    stream = io.BytesIO()
    recordio.write(stream, X, y)
    return stream.getvalue()


def labels_of(body: bytes) -> list[dict[str, float]]:
    """Decode score records by protobuf's own rules, field by field."""

    def fields(data: bytes) -> Iterator[tuple[int, bytes]]:
        place = 0
        while place < len(data):
            assert data[place] & 7 == 2
            length = data[place + 1]
            yield data[place] >> 3, data[place + 2 : place + 2 + length]
            place += 2 + length

    found, place = [], 0
    while place < len(body):
        magic, length = struct.unpack_from("<II", body, place)
        assert magic == 0xCED7230A
        record = {}
        for number, entry in fields(body[place + 8 : place + 8 + length]):
            assert number == 2
            parts = dict(fields(entry))
            ((kind, tensor),) = fields(parts[2])
            ((values_field, packed),) = fields(tensor)
            assert (kind, values_field) == (2, 1)
            record[parts[1].decode()] = struct.unpack("<f", packed)[0]
        found.append(record)
        place += 8 + length + -length % 4
    return found


def test_a_regressor_answers_every_format(tmp_path):
    model = some_model("regressor")
    (tmp_path / "model").mkdir()
    artifact.save_member(model, tmp_path / "model")
    X = sparse.csr_matrix(np.float32([[1, 0, 0, 0, 2, 0], [0, 0, 1, 0, 0, 0], [0, 0.5, 0, 0, 0, -1]]))
    scores = model.predict(X)
    sparse_instances = [
        {
            "data": {
                "features": {
                    "keys": row.indices.tolist(),
                    "shape": [6],
                    "values": row.data.astype(float).tolist(),
                }
            }
        }
        for row in X
    ]
    dense_instances = [{"features": row} for row in X.toarray().astype(float).tolist()]
    with serving(tmp_path) as connection:
        connection.request("GET", "/ping")
        assert connection.getresponse().read() == b""
        connection.request("GET", "/execution-parameters")
        parameters = json.loads(connection.getresponse().read())
        assert set(parameters) == {"MaxConcurrentTransforms", "BatchStrategy", "MaxPayloadInMB"}

        for instances in (sparse_instances, dense_instances):
            body = json.dumps({"instances": instances})
            status, kind, answer = post(connection, body, "application/json; charset=utf-8")
            assert (status, kind) == (200, "application/json")
            assert [row["score"] for row in json.loads(answer)["predictions"]] == pytest.approx(scores)
            assert all(set(row) == {"score"} for row in json.loads(answer)["predictions"])

            lines = "\n".join(json.dumps(instance) for instance in instances) + "\n"
            status, kind, answer = post(connection, lines, "application/jsonlines", "application/jsonlines")
            assert (status, kind) == (200, "application/jsonlines")
            assert [json.loads(line)["score"] for line in answer.splitlines()] == pytest.approx(scores)

        records = as_recordio(X)
        status, kind, answer = post(
            connection, records, "application/x-recordio-protobuf", "application/x-recordio-protobuf"
        )
        assert (status, kind) == (200, "application/x-recordio-protobuf")
        assert [row["score"] for row in labels_of(answer)] == pytest.approx(scores)
        status, kind, answer = post(connection, records, "application/x-recordio-protobuf", "*/*")
        assert [row["score"] for row in json.loads(answer)["predictions"]] == pytest.approx(scores)

        for body, content_type, accept, wanted, sentence in (
            (b"1,2", "text/csv", "*/*", 415, "The content type text/csv is not one of"),
            (b"{}", "application/json", "text/csv", 406, "not text/csv"),
            (b"{", "application/json", "*/*", 400, "The request is not JSON"),
            (b"not records", "application/x-recordio-protobuf", "*/*", 400, "The request is not"),
            (
                as_recordio(sparse.csr_matrix((1, 7))),
                "application/x-recordio-protobuf",
                "*/*",
                400,
                "7 columns",
            ),
        ):
            status, kind, answer = post(connection, body, content_type, accept)
            assert status == wanted, answer
            assert kind.startswith("text/plain")
            assert sentence in answer.decode()
        connection.request("GET", "/nowhere")
        assert connection.getresponse().status == 404


def test_a_classifier_answers_with_labels_too(tmp_path):
    model = some_model("binary_classifier")
    (tmp_path / "model").mkdir()
    model.save(tmp_path / "model" / "model.tar.gz")
    X = np.eye(6, dtype=np.float32)
    scores = model.predict(X)
    with serving(tmp_path) as connection:
        status, _, answer = post(connection, as_recordio(X), "application/x-recordio-protobuf")
        assert status == 200
        predictions = json.loads(answer)["predictions"]
        assert [row["score"] for row in predictions] == pytest.approx(scores)
        assert [row["predicted_label"] for row in predictions] == [float(score > 0.5) for score in scores]
        _, _, answer = post(
            connection,
            as_recordio(X),
            "application/x-recordio-protobuf",
            "application/x-recordio-protobuf",
        )
        records = labels_of(answer)
        assert [row["score"] for row in records] == pytest.approx(scores)
        assert [row["predicted_label"] for row in records] == [float(score > 0.5) for score in scores]


def test_serving_without_a_model_says_so(tmp_path):
    command = [sys.executable, "-m", "lib.fm", "serve", "--root", str(tmp_path), "--port", "0"]
    done = subprocess.run(command, cwd=REPOSITORY, capture_output=True, text=True, timeout=30)
    assert done.returncode == 1
    assert done.stderr.startswith("ClientError: There is no model at")
    assert "Traceback" not in done.stderr


def test_a_port_in_use_is_named(tmp_path):
    (tmp_path / "model").mkdir()
    artifact.save_member(some_model("regressor"), tmp_path / "model")
    with socket.create_server(("127.0.0.1", 0)) as taken:
        port = str(taken.getsockname()[1])
        command = [sys.executable, "-m", "lib.fm", "serve", "--root", str(tmp_path), "--port", port]
        done = subprocess.run(command, cwd=REPOSITORY, capture_output=True, text=True, timeout=30)
    assert done.returncode == 1
    assert (
        done.stderr == f"ClientError: The server cannot listen on 127.0.0.1:{port}: Address already in use.\n"
    )


def test_a_single_record_without_its_frame_is_read(tmp_path):
    X = sparse.csr_matrix(np.float32([[1, 0, 0, 0, 2, 0]]))
    for message in recordio.records(as_recordio(X), framed=False):
        found = formats.read_request(bytes(message), formats.RECORDIO, 6)
        np.testing.assert_array_equal(found.toarray(), X.toarray())


@pytest.mark.parametrize(
    ("instance", "message"),
    [
        ({"data": {"features": {"keys": [6], "values": [1]}}}, "Instance 0 has a key that is not"),
        ({"data": {"features": {"keys": [-1], "values": [1]}}}, "Instance 0 has a key that is not"),
        ({"data": {"features": {"keys": [0.5], "values": [1]}}}, "Instance 0 has a key that is not"),
        ({"data": {"features": {"keys": [1, 2], "values": [1]}}}, "2 keys but 1 values"),
        ({"data": {"features": {"keys": [1], "shape": [7], "values": [1]}}}, "the shape"),
        ({"data": {"features": {"keys": [1]}}}, 'no list of "values"'),
        ({"features": [1, 2]}, "has 2 features, but the model takes 6"),
        ({"features": "123456"}, 'no list of "features"'),
        ({"features": [1, 2, 3, 4, 5, "6"]}, "that are not numbers"),
        ({"features": [1, 2, 3, 4, 5, 1e300]}, "that are not finite"),
        ({"features": [1, 2, 3, 4, 5, 10**400]}, "too large"),
        ({"feature": [1]}, 'has no "features"'),
        ([1, 2, 3, 4, 5, 6], 'has no "features"'),
        (None, 'has no "features"'),
    ],
)
def test_a_bad_instance_is_told_by_its_number(instance, message):
    body = json.dumps({"instances": [instance]}).encode()
    with pytest.raises(formats.DataError, match=message):
        formats.read_request(body, formats.JSON, 6)


@pytest.mark.parametrize(
    ("body", "content_type", "message"),
    [
        (b'{"instances": []}', formats.JSON, "holds no examples"),
        (b'{"instance": []}', formats.JSON, 'no list of "instances"'),
        (b"[]", formats.JSON, 'no list of "instances"'),
        (b"\xff", formats.JSON, "not UTF-8"),
        (b"", formats.JSON_LINES, "holds no examples"),
        (b'{"features": [1]}\nnope\n', formats.JSON_LINES, "Line 2 is not JSON"),
        (b"[" * 100_000, formats.JSON, "is not JSON"),
    ],
)
def test_a_bad_request_is_told_in_a_sentence(body, content_type, message):
    with pytest.raises(formats.DataError, match=message):
        formats.read_request(body, content_type, 1)
