from __future__ import annotations

from dataclasses import replace

import numpy as np
import pandas as pd
import pytest
import report_runs

from lib import exploring, plots, records
from lib.errors import DataError, ParameterError


@pytest.fixture
def outputs(tmp_path):
    for name, build in (("first", report_runs.completed), ("second", report_runs.again)):
        folder = build(tmp_path / name)
        records.write_run(folder, replace(records.read_run(folder), run_id=name))
    return tmp_path


def test_runs_are_a_table(outputs, tmp_path):
    table = exploring.runs(outputs)
    assert list(table.index) == ["second", "first"]
    assert table.loc["second", "rmse"] == 1.0311
    assert len(exploring.runs(tmp_path / "none")) == 0


def test_the_last_two_runs_are_compared_unless_others_are_named(outputs):
    compared = exploring.compare(outputs=outputs)
    assert (compared.before.run_id, compared.after.run_id) == ("first", "second")
    assert exploring.metrics(compared).loc["rmse", ""] == "better"
    assert list(exploring.changes(compared).index) == ["num_factors"]
    assert exploring.code(compared) == "The code cells are the same."
    other = exploring.compare(before="second", outputs=outputs)
    assert (other.before.run_id, other.after.run_id) == ("second", "first")
    with pytest.raises(ParameterError, match="There is no run thrid"):
        exploring.compare("first", "thrid", outputs)


def test_without_two_runs_there_is_nothing_to_compare(tmp_path):
    with pytest.raises(ParameterError, match="There are no two runs"):
        exploring.compare(outputs=tmp_path)


def test_a_run_without_a_training_job_has_no_learning_curve(outputs):
    compared = exploring.compare(outputs=outputs)
    compared.before.scraps.pop("training_job_name", None)
    with pytest.raises(DataError, match="The run first has no training job"):
        exploring.learning_curves(compared)


TEST = pd.DataFrame({"customer": [0, 1, 2, 0], "video": [0, 0, 1, 1], "star_rating": [5.0, 1.0, 3.0, 4.0]})
PREDICTED = np.array([4.0, 4.0, 3.0, 4.5])
CUSTOMERS = pd.DataFrame({"customer": [0, 1, 2], "train_ratings": [9, 8, 7]})
VIDEOS = pd.DataFrame({"video": [0, 1], "train_ratings": [5, 6], "product_title": ["A", "B"]})


def test_the_largest_errors_come_first():
    table = exploring.largest_errors(TEST, PREDICTED, CUSTOMERS, VIDEOS, n=2)
    assert list(table.index) == [1, 0]
    assert list(table["error"]) == [3.0, -1.0]
    assert list(table["title"]) == ["A", "A"]
    assert list(table["ratings of the customer"]) == [8, 9]
    untitled = exploring.largest_errors(TEST, PREDICTED, CUSTOMERS, VIDEOS.drop(columns="product_title"))
    assert len(untitled) == 4
    assert list(TEST.columns) == ["customer", "video", "star_rating"]  # untouched


def test_errors_by_video_leave_out_those_with_few_ratings():
    table = exploring.errors_by_video(TEST, PREDICTED, VIDEOS, at_least=2)
    assert list(table["title"]) == ["A", "B"]
    assert table["rmse"].tolist() == pytest.approx([np.sqrt(5), np.sqrt(0.125)])
    assert table["mean error"].tolist() == [1.0, 0.25]
    assert len(exploring.errors_by_video(TEST, PREDICTED, VIDEOS, at_least=3)) == 0


def test_a_map_keeps_the_distances_of_what_lies_in_a_plane():
    points = np.random.default_rng(0).normal(size=(50, 2))
    turned = points @ np.linalg.qr(np.random.default_rng(1).normal(size=(8, 8)))[0][:2]
    flat, share = exploring.map_of(turned)
    assert share == pytest.approx(1)
    before = np.linalg.norm(points[:, None] - points, axis=2)
    assert np.linalg.norm(flat[:, None] - flat, axis=2) == pytest.approx(before, abs=1e-8)
    again, _ = exploring.map_of(turned)
    assert (again == flat).all()


def test_the_figures_are_drawn():
    curves = pd.DataFrame(
        {"a": [1.0, 0.5, np.nan], "b": [2.0, 1.0, 0.9]}, index=pd.Index([0, 1, 2], name="epoch")
    )
    assert plots.png(plots.learning_curves(curves)).startswith(b"\x89PNG")
    with pytest.raises(DataError, match="no learning curve"):
        plots.learning_curves(curves.iloc[:0])
    points, share = exploring.map_of(np.random.default_rng(0).normal(size=(30, 4)))
    titles = pd.Series([f"$ {n} " + "long " * 9 for n in range(30)])
    assert plots.png(plots.factor_map(points, titles, [3, 1], share)).startswith(b"\x89PNG")
    assert plots.png(plots.factor_map(points, titles, [], share)).startswith(b"\x89PNG")
