"""The notebooks with side features: from one's own columns to a model that uses them."""

from __future__ import annotations

import itertools
import json
import os
import random
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest

from lib import fm, jobs, storage
from lib.design import Design

ROOT = Path(__file__).parents[2]
GENRES = ("Drama", "Drama, War", "Comedy")


def run_all(outputs: Path, *arguments: str) -> subprocess.CompletedProcess[str]:
    environment = {**os.environ, "REELBOOK_OUTPUTS": str(outputs)}
    command = [sys.executable, str(ROOT / "run_all.py"), *arguments]
    return subprocess.run(command, env=environment, capture_output=True, text=True, timeout=280, check=False)


def options(parameters: dict) -> list[str]:
    return [word for name, value in parameters.items() for word in ("-p", name, json.dumps(value))]


@pytest.fixture(scope="module")
def own(tmp_path_factory: pytest.TempPathFactory) -> dict:
    """Parameters that name ratings and titles of one's own: whoever watches on a phone gives less."""
    folder = tmp_path_factory.mktemp("own")
    chance = random.Random(0)
    ratings = ["user,film,stars,day,device"]
    for user, film in itertools.product(range(60), range(40)):
        if chance.random() < 0.5:
            device = chance.choice(["phone", "tv"])
            stars = 3 + (device == "tv") - (film % 3 == 2) + chance.gauss(0, 0.5)
            ratings.append(f"u{user},f{film},{stars:.1f},2014-{chance.randint(1, 3):02}-01,{device}")
    (folder / "ratings.csv").write_text("\n".join(ratings) + "\n")
    films = [f'f{film},"Film {film}","{GENRES[film % 3]}",{film % 7 * 10}' for film in range(40)]
    (folder / "films.csv").write_text("\n".join(["film,name,genre,minutes", *films]) + "\n")
    return {
        "source": "file",
        "path": str(folder / "ratings.csv"),
        "titles_path": str(folder / "films.csv"),
        "customer_column": "user",
        "product_column": "film",
        "rating_column": "stars",
        "title_column": "name",
        "date_column": "day",
        "num_factors": 4,
        "epochs": 20,
        "linear_lr": 0.01,
        "test_part_rows": 90,
    }


@pytest.mark.usefixtures("local_aws")
def test_a_run_with_side_features_learns_from_them_and_its_design_builds_the_same_rows(
    tmp_path: Path, own: dict
) -> None:
    asked = {
        "side_features": ["genre", "minutes:log", "device", "month", "rated"],
        "side_weight": 1.0,
        "most_rated": 5,
        "context": {"device": "tv"},
    }
    done = run_all(tmp_path, "--run-id", "side", *options({**own, **asked}))
    assert done.returncode == 0, done.stdout + done.stderr
    scraps = json.loads((tmp_path / "side" / "run.json").read_text())["scraps"]
    assert scraps["rmse"] < 0.95 * scraps["baseline_rmse"]

    design = Design.load(scraps["design_uri"])
    assert design.blocks == {
        "customer": 60,
        "video": 40,
        "genre": 3,
        "minutes": 1,
        "device": 2,
        "month": 3,
        "rated": 40,
    }
    assert design.describe()["of"].tolist()[2:] == ["the video"] * 2 + ["the rating"] * 2 + ["the customer"]
    assert scraps["feature_dim"] == design.feature_dim
    test = storage.read_parquet(storage.join(scraps["ratings_uri"], "test.parquet"))
    model = fm.load(storage.download(scraps["model_uri"], tmp_path / "model.tar.gz"))
    predicted = jobs.read_predictions(scraps["predictions_uri"])
    np.testing.assert_allclose(predicted, model.predict(design.transform(test)), rtol=1e-4)


@pytest.mark.usefixtures("local_aws")
def test_a_side_feature_that_the_ratings_do_not_have_fails_in_one_sentence(tmp_path: Path, own: dict) -> None:
    done = run_all(tmp_path, "--run-id", "bad", *options({**own, "side_features": ["genres"]}))
    assert done.returncode == 1
    assert "The ratings have no column genres; there are user, film, stars, day, device" in done.stderr
    assert "Traceback" not in done.stderr


def test_a_side_feature_of_no_known_kind_is_refused_before_the_first_kernel(
    tmp_path: Path, own: dict
) -> None:
    done = run_all(tmp_path, "--run-id", "bad", *options({**own, "side_features": ["stars:numbr"]}))
    assert done.returncode == 2
    assert done.stderr == (
        "run_all.py: error: The side feature stars:numbr is of no known kind (the command line). "
        "Did you mean `number`?\n"
    )
    assert not (tmp_path / "bad").exists()
