"""The model artifact: written, read back, MXNet's own bytes, and damaged or foreign files."""

from __future__ import annotations

import base64
import gzip
import io
import json
import struct
import tarfile
import zipfile

import numpy as np
import pytest
from scipy import sparse

from lib import fm
from lib.errors import ArrayError, ModelError
from lib.fm import artifact, ndarrays

WEIGHTS = np.array([0.5, -1, 0.25], np.float32)
FACTORS = np.array([[1, 2], [3, -4], [0.125, 6]], np.float32)

# Files that MXNet 1.9.1's nd.save made of bias 3.5 and the arrays above: all rows stored, only the rows 1 of
# the weights and 0, 2 of the factors stored, and the dense form (1, d) and (k, d).
ALL_ROWS = """
EgEAAAAAAAAAAAAAAAAAAAMAAAAAAAAAyfqT+QEAAAACAAAAAwAAAAAAAAABAAAAAAAAAAIAAAADAAAAAAAAAAEAAAAAAAAAAQAAAAAAAAAA
AAAABgAAAAEAAAADAAAAAAAAAAAAAD8AAIC/AACAPgAAAAAAAAAAAQAAAAAAAAACAAAAAAAAAMn6k/kAAAAAAQAAAAEAAAAAAAAAAQAAAAAA
AAAAAAAAAABgQMn6k/kBAAAAAgAAAAMAAAAAAAAAAgAAAAAAAAACAAAAAwAAAAAAAAACAAAAAAAAAAEAAAAAAAAAAAAAAAYAAAABAAAAAwAA
AAAAAAAAAIA/AAAAQAAAQEAAAIDAAAAAPgAAwEAAAAAAAAAAAAEAAAAAAAAAAgAAAAAAAAADAAAAAAAAAA0AAAAAAAAAYXJnOncxX3dlaWdo
dA0AAAAAAAAAYXJnOncwX3dlaWdodAUAAAAAAAAAYXJnOnY=
"""
SOME_ROWS = """
EgEAAAAAAAAAAAAAAAAAAAMAAAAAAAAAyfqT+QEAAAACAAAAAQAAAAAAAAABAAAAAAAAAAIAAAADAAAAAAAAAAEAAAAAAAAAAQAAAAAAAAAA
AAAABgAAAAEAAAABAAAAAAAAAAAAgL8BAAAAAAAAAMn6k/kAAAAAAQAAAAEAAAAAAAAAAQAAAAAAAAAAAAAAAABgQMn6k/kBAAAAAgAAAAIA
AAAAAAAAAgAAAAAAAAACAAAAAwAAAAAAAAACAAAAAAAAAAEAAAAAAAAAAAAAAAYAAAABAAAAAgAAAAAAAAAAAIA/AAAAQAAAAD4AAMBAAAAA
AAAAAAACAAAAAAAAAAMAAAAAAAAADQAAAAAAAABhcmc6dzFfd2VpZ2h0DQAAAAAAAABhcmc6dzBfd2VpZ2h0BQAAAAAAAABhcmc6dg==
"""
DENSE = """
EgEAAAAAAAAAAAAAAAAAAAMAAAAAAAAAyfqT+QAAAAACAAAAAQAAAAAAAAADAAAAAAAAAAEAAAAAAAAAAAAAAAAAAD8AAIC/AACAPsn6k/kA
AAAAAQAAAAEAAAAAAAAAAQAAAAAAAAAAAAAAAABgQMn6k/kAAAAAAgAAAAIAAAAAAAAAAwAAAAAAAAABAAAAAAAAAAAAAAAAAIA/AABAQAAA
AD4AAABAAACAwAAAwEADAAAAAAAAABsAAAAAAAAAYXJnOkxpbmVhcl9QbHVzX0JpYXNfd2VpZ2h0GQAAAAAAAABhcmc6TGluZWFyX1BsdXNf
Qmlhc19iaWFzBQAAAAAAAABhcmc6dg==
"""


def mxnet_bytes(text: str) -> bytes:
    return base64.b64decode("".join(text.split()))


def small_model(predictor_type: str = "regressor") -> fm.Model:
    return fm.Model(3.5, WEIGHTS, FACTORS, predictor_type)


def member(params: bytes, /, **changes: str | None) -> bytes:
    """A model_algo-1 around some parameters."""
    meta = {"version": 1, "epoch_number": 1, "label_names": ["out_label"]}
    meta["training_parameters"] = {"feature_dim": "3", "num_factors": "2", "predictor_type": "regressor"}
    parts = {"meta.json": json.dumps(meta), "symbol.json": "{}", "params": params} | changes
    buffer = io.BytesIO()
    with zipfile.ZipFile(buffer, "w") as archive:
        for name, content in parts.items():
            if content is not None:
                archive.writestr(name, content)
    return buffer.getvalue()


def archive_of(*members: tuple[tarfile.TarInfo, bytes]) -> bytes:
    buffer = io.BytesIO()
    with tarfile.open(fileobj=buffer, mode="w:gz") as archive:
        for entry, content in members:
            archive.addfile(entry, io.BytesIO(content))
    return buffer.getvalue()


def entry(name: str, content: bytes, kind: bytes = tarfile.REGTYPE, link: str = "") -> tuple:
    info = tarfile.TarInfo(name)
    info.size, info.type, info.linkname = len(content), kind, link
    return info, content


def test_a_saved_model_is_read_back_as_it_was(tmp_path):
    rng = np.random.default_rng(0)
    model = fm.Model(
        1.25, rng.normal(size=50), rng.normal(size=(50, 7)), "binary_classifier", {"epochs": "4"}
    )
    path = model.save(tmp_path / "model.tar.gz")
    again = fm.load(path)
    assert again.bias == 1.25
    np.testing.assert_array_equal(again.linear, model.linear)
    np.testing.assert_array_equal(again.factors, model.factors)
    assert again.predictor_type == "binary_classifier"
    assert again.training_parameters["epochs"] == "4"
    assert again.training_parameters["feature_dim"] == "50"
    assert [found.name for found in tmp_path.iterdir()] == ["model.tar.gz"]


def test_a_model_is_found_as_archive_folder_and_member(tmp_path):
    (tmp_path / "a").mkdir()
    (tmp_path / "b").mkdir()
    archive = small_model().save(tmp_path / "a" / "model.tar.gz")
    single = artifact.save_member(small_model(), tmp_path / "b")
    assert single.name == "model_algo-1"
    for path in (archive, archive.parent, single, single.parent, str(single)):
        np.testing.assert_array_equal(fm.load(path).factors, FACTORS)


def test_the_same_model_gives_the_same_bytes(tmp_path):
    first = small_model().save(tmp_path / "1.tar.gz").read_bytes()
    assert first == small_model().save(tmp_path / "2.tar.gz").read_bytes()
    assert first[4:8] == bytes(4)  # gzip's time


def test_the_archive_holds_one_stored_zip_with_the_three_members(tmp_path):
    path = small_model().save(tmp_path / "model.tar.gz")
    with tarfile.open(path) as archive:
        assert archive.getnames() == ["model_algo-1"]
        content = archive.extractfile("model_algo-1").read()
    with zipfile.ZipFile(io.BytesIO(content)) as zipped:
        assert zipped.namelist() == ["meta.json", "symbol.json", "params"]
        assert {info.compress_type for info in zipped.infolist()} == {zipfile.ZIP_STORED}
        meta = json.loads(zipped.read("meta.json"))
        assert zipped.read("params") == mxnet_bytes(ALL_ROWS)
        symbol = json.loads(zipped.read("symbol.json"))
    assert (meta["version"], meta["epoch_number"], meta["label_names"]) == (1, 1, ["out_label"])
    assert meta["training_parameters"]["num_factors"] == "2"
    assert all(isinstance(value, str) for value in meta["training_parameters"].values())
    nodes = {node["name"]: node for node in symbol["nodes"]}
    assert nodes["out"]["op"] == "LinearRegressionOutput"
    assert nodes["v"]["attrs"] == {
        "__init__": '["normal", {"sigma": 0.001}]',
        "__lr_mult__": "0.0001",
        "__shape__": "(3, 2)",
        "__storage_type__": "1",
        "__wd_mult__": "1e-05",
    }
    assert symbol["heads"] == [[len(symbol["nodes"]) - 1, 0, 0]]


def test_the_classifier_has_its_own_head(tmp_path):
    path = artifact.save_member(small_model("binary_classifier"), tmp_path)
    with zipfile.ZipFile(path) as zipped:
        symbol = json.loads(zipped.read("symbol.json"))
    assert symbol["nodes"][-1]["op"] == "LogisticRegressionOutput"
    assert fm.load(path).predictor_type == "binary_classifier"


@pytest.mark.parametrize("text", [ALL_ROWS, DENSE], ids=["row_sparse", "dense_input"])
def test_mxnets_files_are_read(tmp_path, text):
    (tmp_path / "model_algo-1").write_bytes(member(mxnet_bytes(text)))
    model = fm.load(tmp_path)
    assert model.bias == 3.5
    np.testing.assert_array_equal(model.linear, WEIGHTS)
    np.testing.assert_array_equal(model.factors, FACTORS)


def test_rows_that_are_not_stored_are_zero(tmp_path):
    (tmp_path / "model_algo-1").write_bytes(member(mxnet_bytes(SOME_ROWS)))
    model = fm.load(tmp_path)
    np.testing.assert_array_equal(model.linear, [0, -1, 0])
    np.testing.assert_array_equal(model.factors, FACTORS * [[1], [0], [1]])


def test_the_kind_of_model_is_read_from_the_graph_where_the_parameters_do_not_say_it(tmp_path):
    meta = json.dumps({"training_parameters": {}})
    with zipfile.ZipFile(artifact.save_member(small_model("binary_classifier"), tmp_path)) as zipped:
        graph = zipped.read("symbol.json").decode()
    content = member(mxnet_bytes(ALL_ROWS), **{"meta.json": meta, "symbol.json": graph})
    (tmp_path / "model_algo-1").write_bytes(content)
    assert fm.load(tmp_path).predictor_type == "binary_classifier"


def test_a_truncated_file_is_refused_wherever_it_ends(tmp_path):
    params = mxnet_bytes(ALL_ROWS)
    for length in range(0, len(params), 7):
        with pytest.raises(ndarrays.FormatError):
            ndarrays.read(io.BytesIO(params[:length]), length, limit=10**6)
    whole = small_model().save(tmp_path / "model.tar.gz").read_bytes()
    for length in (0, 1, 5, 20, 100, len(whole) // 2, len(whole) - 1):
        (tmp_path / "cut.tar.gz").write_bytes(whole[:length])
        with pytest.raises(ModelError, match="cannot be read as a Factorization Machines model"):
            fm.load(tmp_path / "cut.tar.gz")
    single = member(params)
    for length in (30, 200, len(single) - 10):
        (tmp_path / "model_algo-1").write_bytes(single[:length])
        with pytest.raises(ModelError, match="truncated or damaged"):
            fm.load(tmp_path / "model_algo-1")


def test_a_damaged_byte_is_noticed(tmp_path):
    content = bytearray(member(mxnet_bytes(ALL_ROWS)))
    content[content.index(struct.pack("<f", 0.125))] ^= 1
    (tmp_path / "model_algo-1").write_bytes(content)
    with pytest.raises(ModelError, match="truncated or damaged"):
        fm.load(tmp_path)


@pytest.mark.parametrize("value", [0, 3, 255, 2**31, 2**63 - 1])
def test_no_claim_of_a_damaged_file_is_believed(value):
    """Any number of the file may lie: it is refused, or it was a number of the data; nothing else happens."""
    params = mxnet_bytes(SOME_ROWS)
    refused = 0
    for place in range(0, len(params) - 8, 4):
        damaged = params[:place] + struct.pack("<q", value) + params[place + 8 :]
        try:
            arrays = ndarrays.read(io.BytesIO(damaged), len(damaged), limit=10**6)
        except ndarrays.FormatError:
            refused += 1
        else:
            assert sum(array.nbytes for array in arrays.values()) <= 10**6
    assert refused > 10


MODEL_FILE = ("model_algo-1", member(mxnet_bytes(ALL_ROWS)))
BAD_ARCHIVES = {
    "empty": ([], "is empty"),
    "two_files": ([entry(*MODEL_FILE), entry("other", b"x")], "more than one file"),
    "link": ([entry("model_algo-1", b"", tarfile.SYMTYPE, "/etc/passwd")], "not a regular file"),
    "hard_link": ([entry("model_algo-1", b"", tarfile.LNKTYPE, "/etc/passwd")], "not a regular file"),
    "folder": ([entry("model_algo-1", b"", tarfile.DIRTYPE)], "not a regular file"),
    "device": ([entry("model_algo-1", b"", tarfile.CHRTYPE)], "not a regular file"),
    "path_upwards": ([entry("../model_algo-1", MODEL_FILE[1])], "instead of model_algo-1"),
    "absolute_path": ([entry("/model_algo-1", MODEL_FILE[1])], "instead of model_algo-1"),
    "another_model": ([entry("xgboost-model", b"x")], "'xgboost-model' instead of model_algo-1"),
    "no_zip_inside": ([entry("model_algo-1", b"PK\x03\x04 not really")], "truncated or damaged"),
}


@pytest.mark.parametrize("case", BAD_ARCHIVES)
def test_bad_archives_are_refused(tmp_path, case):
    members, message = BAD_ARCHIVES[case]
    path = tmp_path / "model.tar.gz"
    path.write_bytes(archive_of(*members))
    with pytest.raises(ModelError, match=message) as raised:
        fm.load(path)
    assert str(path) in str(raised.value)


def test_an_archive_with_a_leading_dot_is_accepted(tmp_path):
    path = tmp_path / "model.tar.gz"
    path.write_bytes(archive_of(entry("./model_algo-1", MODEL_FILE[1])))
    assert fm.load(path).feature_dim == 3


def test_a_claim_of_too_many_bytes_is_refused_before_they_are_read(tmp_path):
    huge = tarfile.TarInfo("model_algo-1")
    huge.size = artifact.LARGEST_MODEL + 1
    long_header = tarfile.TarInfo("PaxHeader")
    long_header.type, long_header.size = tarfile.XHDTYPE, 2**30
    for info, message in ((huge, "more than is allowed"), (long_header, "header of unlikely size")):
        path = tmp_path / "model.tar.gz"
        path.write_bytes(gzip.compress(info.tobuf(tarfile.GNU_FORMAT) + bytes(1024)))
        with pytest.raises(ModelError, match=message):
            fm.load(path)


BAD_MEMBERS = {
    "no_params": (member(b"", params=None), "has no params"),
    "no_meta": (
        member(b"", **{"meta.json": None, "symbol.json": None}),
        "has no meta.json and no symbol.json",
    ),
    "no_json": (member(b"", **{"meta.json": "no"}), "description is malformed"),
    "meta_is_a_list": (member(b"", **{"meta.json": "[]"}), "description is malformed"),
    "no_arrays": (member(b"hello, this is text of some length"), "not a list of MXNet arrays"),
    "more_after_the_end": (member(mxnet_bytes(ALL_ROWS) + b"x"), "go on after their end"),
    "unknown_kind": (
        member(
            mxnet_bytes(ALL_ROWS), **{"meta.json": '{"training_parameters": {"predictor_type": "poisson"}}'}
        ),
        "not 'poisson'",
    ),
}


@pytest.mark.parametrize("case", BAD_MEMBERS)
def test_bad_members_are_refused(tmp_path, case):
    content, message = BAD_MEMBERS[case]
    (tmp_path / "model_algo-1").write_bytes(content)
    with pytest.raises(ModelError, match=message):
        fm.load(tmp_path)


@pytest.mark.parametrize(
    ("arrays", "message"),
    [
        ({"arg:w0_weight": [1.0]}, "no factors"),
        ({"arg:v": FACTORS, "arg:w1_weight": [1.0, 2.0]}, "do not fit"),
        ({"arg:v": FACTORS, "arg:w0_weight": [1.0, 2.0]}, "do not fit"),
        ({"arg:v": FACTORS[0]}, "its factors have the shape"),
        ({"arg:v": FACTORS * np.nan}, "not finite"),
    ],
    ids=["no_factors", "too_few_weights", "two_biases", "flat_factors", "nan"],
)
def test_arrays_that_make_no_model_are_refused(tmp_path, arrays, message):
    buffer = io.BytesIO()
    ndarrays.write(buffer, arrays, row_sparse=frozenset())
    (tmp_path / "model_algo-1").write_bytes(member(buffer.getvalue()))
    with pytest.raises(ModelError, match=message):
        fm.load(tmp_path)


def test_a_model_without_bias_and_weights_is_read_with_zeros(tmp_path):
    buffer = io.BytesIO()
    ndarrays.write(buffer, {"arg:v": FACTORS}, row_sparse=frozenset(["arg:v"]))
    (tmp_path / "model_algo-1").write_bytes(member(buffer.getvalue()))
    model = fm.load(tmp_path)
    assert model.bias == 0
    assert not model.linear.any()


def test_a_file_or_folder_that_is_not_there_is_named(tmp_path):
    with pytest.raises(ModelError, match="There is no model at"):
        fm.load(tmp_path / "nowhere.tar.gz")
    with pytest.raises(ModelError, match=r"holds neither model_algo-1 nor model\.tar\.gz"):
        fm.load(tmp_path)


def test_a_failed_save_leaves_the_old_file_and_nothing_else(tmp_path):
    path = small_model().save(tmp_path / "model.tar.gz")
    before = path.read_bytes()
    broken = fm.Model(0, WEIGHTS, FACTORS, training_parameters={"epochs": "none"})
    with pytest.raises(Exception, match="epochs"):
        broken.save(path)
    assert path.read_bytes() == before
    assert [found.name for found in tmp_path.iterdir()] == ["model.tar.gz"]


def test_a_model_cannot_be_saved_where_there_is_no_folder(tmp_path):
    with pytest.raises(ModelError, match=r"cannot be written to .*: No such file or directory"):
        small_model().save(tmp_path / "nowhere" / "model.tar.gz")


def test_predictions_follow_the_equation():
    rng = np.random.default_rng(2)
    model = fm.Model(0.5, rng.normal(size=30), rng.normal(size=(30, 5)))
    X = sparse.random(9000, 30, 0.2, format="csr", random_state=1)
    dense = X.toarray()
    pairs = (dense @ model.factors) ** 2 - dense**2 @ model.factors**2
    expected = 0.5 + dense @ model.linear + 0.5 * pairs.sum(1)
    for form in (X, X.tocsc(), X.tocoo(), dense, sparse.csr_array(X)):
        predicted = model.predict(form)
        assert predicted.dtype == np.float32
        np.testing.assert_allclose(predicted, expected, rtol=1e-4, atol=1e-4)
    classifier = fm.Model(0.5, model.linear, model.factors, "binary_classifier")
    np.testing.assert_allclose(classifier.predict(X), 1 / (1 + np.exp(-expected)), atol=1e-5)
    np.testing.assert_array_equal(classifier.predicted_labels(np.float32([0.2, 0.5, 0.7])), [0, 0, 1])


def test_predictions_of_no_rows_and_of_empty_rows():
    model = small_model()
    assert model.predict(sparse.csr_matrix((0, 3))).shape == (0,)
    np.testing.assert_array_equal(model.predict(sparse.csr_matrix((2, 3))), [3.5, 3.5])


def test_scores_of_extreme_outputs_stay_probabilities():
    model = fm.Model(0, [1000], [[0]], "binary_classifier")
    np.testing.assert_array_equal(model.predict(np.array([[1], [-1], [0]])), [1, 0, 0.5])


@pytest.mark.parametrize(
    ("X", "message"),
    [
        (sparse.csr_matrix((2, 4)), "takes 3 features, but the examples have 4"),
        (np.zeros(3), "as a matrix, one row each"),
        (np.array([["a", "b", "c"]], object), "Examples are numbers"),
        ([[1, 2, 3], [4]], "rows of equal length"),
        (sparse.coo_array(np.ones(3)), "as a matrix, one row each"),
        (np.array([[1e300, 0, 1]]), "not finite"),
        (np.array([[np.nan, 0, 1]]), "not finite"),
    ],
)
def test_examples_that_do_not_fit_are_refused(X, message):
    with pytest.raises((ModelError, ArrayError), match=message):
        small_model().predict(X)


def test_numbers_that_make_no_model_are_refused():
    with pytest.raises(ModelError, match=r"weights of shape \(d,\) and factors of shape"):
        fm.Model(0, WEIGHTS, FACTORS[:2])
    with pytest.raises(ModelError, match="not 'ranker'"):
        fm.Model(0, WEIGHTS, FACTORS, "ranker")
    with pytest.raises(ModelError, match="Only a binary_classifier"):
        small_model().predicted_labels(np.ones(1))
