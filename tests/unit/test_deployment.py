"""Endpoints as the notebooks use them: asked in payloads that fit, and errors in one sentence."""

from __future__ import annotations

import numpy as np
import pytest
import scipy.sparse as sp

from lib import aws, deployment, fm, jobs, storage
from lib.errors import JobFailed, ModelError, ParameterError


@pytest.fixture(scope="module")
def account(local_aws):
    account = aws.connect("local")
    storage.ensure_bucket("deployment", account.region)
    return account


@pytest.fixture(scope="module")
def model_uri(account, tmp_path_factory):
    """Return the URI of an artifact of 50 features."""
    random = np.random.default_rng(0)
    model = fm.Model(3.5, random.normal(size=50), random.normal(size=(50, 4)))
    archive = model.save(tmp_path_factory.mktemp("model") / "model.tar.gz")
    return storage.upload(archive, "s3://deployment/model.tar.gz")


@pytest.fixture(scope="module")
def served(account, model_uri):
    return deployment.deploy(account, "run", model_uri=model_uri, progress=False)


def test_rows_are_scored_in_as_many_requests_as_they_need(served, model_uri, monkeypatch, tmp_path):
    X = sp.random(2_000, 50, 0.2, "csr", np.float32, np.random.default_rng(1))
    monkeypatch.setattr(deployment, "MAX_PAYLOAD_BYTES", 20_000)
    predictor = deployment.Predictor(served.endpoint_name)
    scores = predictor.predict(X)
    assert len(predictor.seconds) > 5
    model = fm.load(storage.download(model_uri, tmp_path / "model.tar.gz"))
    assert deployment.check_agreement(scores, model.predict(X)) < 1e-4
    assert predictor.predict(X[:0]).shape == (0,)


def test_a_second_deployment_takes_the_endpoint_up(account, served, model_uri, capsys):
    assert deployment.deploy(account, "run", model_uri=model_uri, progress=False) == served
    assert "Took up the endpoint" in capsys.readouterr().out
    other = deployment.deploy(account, "other-run", model_uri=model_uri, progress=False)
    assert other.endpoint_name != served.endpoint_name


def test_what_the_model_refuses_is_told_in_its_words(served):
    predictor = deployment.Predictor(served.endpoint_name)
    with pytest.raises(ModelError, match=r"did not answer: .*50"):
        predictor.predict(sp.csr_matrix(np.ones((1, 51), np.float32)))
    with pytest.raises(ModelError, match=r"Endpoint nobody of account .* not found"):
        deployment.Predictor("nobody").predict(sp.csr_matrix(np.ones((1, 50), np.float32)))


def test_an_endpoint_that_does_not_come_up_says_why(account):
    broken = storage.write_bytes(b"no archive", "s3://deployment/broken.tar.gz")
    with pytest.raises(JobFailed, match=r"ended as Failed: .*model data cannot be used") as caught:
        deployment.deploy(account, "run", model_uri=broken, progress=False)
    assert "new endpoint will be made" in caught.value.hint


def test_an_unknown_resource_is_refused(account, model_uri):
    with pytest.raises(ParameterError, match="`endpoint` has no key `instance_typ`"):
        deployment.deploy(account, "run", model_uri=model_uri, endpoint={"instance_typ": "ml.m5.large"})


def test_scores_that_differ_are_refused():
    wanted = np.array([1.0, 2.0, 3.0])
    assert deployment.check_agreement(wanted + 1e-6, wanted) == pytest.approx(1e-6)
    with pytest.raises(ModelError, match=r"scores row 1 2\.5, but it should be 2"):
        deployment.check_agreement(np.array([1.0, 2.5, 3.0]), wanted)
    with pytest.raises(ModelError, match="scores row 0 nan"):
        deployment.check_agreement(np.array([np.nan, 2.0, 3.0]), wanted)


def test_jobs_and_deployments_share_the_model(account, served, model_uri):
    assert jobs.create_model(account, "run", "transform", model_uri=model_uri) == served.model_name
