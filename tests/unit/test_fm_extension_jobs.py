"""The local extensions in training jobs: real processes on a folder laid out as SageMaker does."""

from __future__ import annotations

import re
import signal

import numpy as np
import pytest
from training_job import Job, ratings, values

from lib import fm
from lib.fm import train


@pytest.fixture
def job(tmp_path):
    return Job(tmp_path / "ml")


def rmse(outputs: np.ndarray, y: np.ndarray) -> float:
    return float(np.sqrt(np.mean((outputs - y) ** 2)))


def test_early_stopping_leaves_the_best_epoch(job):
    X_test, y_test = ratings(300, seed=1)
    job.channel("test", X_test, y_test)
    job.hyperparameters(epochs="400", factors_lr="0.03", local_early_stopping="4")
    log = job.run()
    by_epoch = values(log, r"#local_metric: host=algo-1, epoch=\d+, test rmse <loss>=(\S+)")
    best = int(np.argmin(by_epoch))
    assert 0 < best < 300
    assert len(by_epoch) == best + 1 + 4
    assert len(values(log, r"epoch=\d+, train rmse <loss>=(\S+)")) == len(by_epoch)
    assert any(f"Local extension: the model is that of epoch={best}" in line for line in log)
    assert values(log, r"completed (\S+) % of epochs")[-1] == 100
    (last,) = values(log, r"#quality_metric: host=\S+, test rmse <loss>=(\S+)")
    assert last == pytest.approx(by_epoch[best], rel=1e-5)
    assert rmse(fm.load(job.root / "model").predict(X_test), y_test) == pytest.approx(last, rel=1e-5)


def test_early_stopping_needs_the_test_channel(job):
    job.hyperparameters(local_early_stopping="4")
    assert job.failure().startswith(
        "ClientError: Early stopping watches the channel `test`, which the job does"
    )


@pytest.mark.parametrize("folded", [False, True])
def test_seeds_are_averaged_into_one_artifact(job, tmp_path, folded, capfd, monkeypatch):
    X_test, y_test = ratings(300, seed=1)
    job.channel("test", X_test, y_test)
    alone = []
    for seed in range(3):
        monkeypatch.setenv("REELBOOK_FM_SEED", str(seed))
        assert train.main(job.root) == 0
        alone.append(fm.load(job.root / "model").predict(X_test))
    monkeypatch.setenv("REELBOOK_FM_SEED", "0")
    job.hyperparameters(local_seeds="3", **({"local_fold": "true"} if folded else {}))
    capfd.readouterr()
    assert train.main(job.root) == 0
    log = capfd.readouterr().out.splitlines()
    model = fm.load(job.root / "model")
    assert model.num_factors == (4 if folded else 12)
    assert model.training_parameters["num_factors"] == str(model.num_factors)
    assert not any(name.startswith("local_") for name in model.training_parameters)
    np.testing.assert_allclose(model.predict(X_test), np.mean(alone, axis=0), rtol=0.01 if folded else 1e-5)
    assert len(values(log, r"#quality_metric: host=\S+, epoch=\d+, train rmse <loss>=(\S+)")) == 4
    assert len(values(log, r"#local_metric: host=\S+, seed=[23], epoch=\d+, train rmse <loss>=(\S+)")) == 8
    assert len(values(log, r"completed (\S+) % of epochs")) == 12
    assert sum("the mean of 3 models of different seeds: it has 12 factors" in line for line in log) == 1


def test_the_finder_tells_which_rates_it_chose(job):
    job.hyperparameters(local_lr_finder="0.2", linear_lr="5e-7", bias_lr="1e-6", epochs="30")
    log = job.run()
    (chosen,) = [line for line in log if "Local extension: chose the learning rates" in line]
    assert float(re.search(r"linear_lr (\S+),", chosen)[1]) > 1e-5
    by_epoch = values(log, r"epoch=\d+, train rmse <loss>=(\S+)")
    assert len(by_epoch) == 30
    assert by_epoch[-1] < 1.5
    assert fm.load(job.root / "model").training_parameters["linear_lr"] == "5e-07"


def test_the_bayesian_algorithm_leaves_an_ordinary_artifact(job):
    X_test, y_test = ratings(300, seed=1)
    job.channel("test", X_test, y_test)
    job.hyperparameters(local_algorithm="bayesian", local_samples="30", local_burn_in="10")
    log = job.run()
    by_sweep = values(log, r"#quality_metric: host=\S+, epoch=\d+, train rmse <loss>=(\S+)")
    assert len(by_sweep) == 40
    tested = values(log, r"#local_metric: host=algo-1, epoch=\d+, test rmse <loss>=(\S+)")
    assert len(tested) == 40
    assert values(log, r"completed (\S+) % of epochs")[-1] == 100
    model = fm.load(job.root / "model")
    assert model.num_factors == 4
    (last,) = values(log, r"#quality_metric: host=\S+, test rmse <loss>=(\S+)")
    assert rmse(model.predict(X_test), y_test) == pytest.approx(last, rel=1e-5)
    assert last == pytest.approx(tested[-1], abs=0.02)
    text = "\n".join(log)
    assert "without effect on the Bayesian algorithm: epochs, mini_batch_size, linear_lr" in text
    assert "Local extension: convergence of noise_precision: " in text
    assert len(re.findall(r"intervals of \d+% hold \d+\.\d% of the test labels", text)) == 4


def test_the_bayesian_classifier_is_a_probit_model_and_its_artifact_a_logistic_one(job, capfd):
    X, y = ratings(900)
    labels = (y > 3.5).astype(np.float32)
    job.channel("train", X[:700], labels[:700])
    job.channel("test", X[700:], labels[700:])
    job.hyperparameters(
        predictor_type="binary_classifier", local_algorithm="bayesian", local_samples="20", local_burn_in="5"
    )
    assert train.main(job.root) == 0
    log = capfd.readouterr().out.splitlines()
    assert values(log, r"test binary_classification_accuracy <score>=(\S+)")[-1] > 0.7
    model = fm.load(job.root / "model")
    assert model.classifier
    assert float(np.mean((model.predict(X[700:]) > 0.5) == labels[700:])) > 0.6


@pytest.mark.parametrize(
    "extension",
    [
        {"local_algorithm": "bayesian", "local_samples": "1000000"},
        {"local_early_stopping": "1000000", "epochs": "1000000"},
        {"local_seeds": "3", "epochs": "1000000"},
    ],
    ids=["bayesian", "early stopping", "seeds"],
)
def test_a_stopped_job_with_an_extension_saves_the_model_so_far(job, extension):
    job.channel("test", *ratings(50, seed=1))
    job.hyperparameters(**extension)
    process = job.start()
    assert process.stdout is not None
    for line in process.stdout:
        if "epoch=25, train rmse" in line:
            break
    process.send_signal(signal.SIGTERM)
    output, errors = process.communicate(timeout=30)
    assert errors == ""
    assert process.returncode == 0
    assert "Asked to stop" in output
    assert fm.load(job.root / "model").num_factors == 4


@pytest.mark.parametrize(
    ("changes", "sentence"),
    [
        ({"local_sedes": "3"}, "no local extension `local_sedes`. Did you mean `local_seeds`?"),
        ({"local_seeds": "0"}, "`local_seeds` must be 1 or more"),
        ({"local_algorithm": "bayesian", "use_linear": "false"}, "no model for `use_linear: false`"),
        ({"local_algorithm": "bayesian", "local_seeds": "2"}, "has no meaning with"),
    ],
)
def test_a_wrong_extension_is_refused_in_a_sentence(job, changes, sentence):
    job.hyperparameters(**changes)
    assert sentence in job.failure()
