"""Errors, baselines, ranking and calibration."""

from __future__ import annotations

import math

import numpy as np
import pandas as pd
import pytest

from lib import evaluation
from lib.errors import DataError, ParameterError


@pytest.fixture
def rated() -> pd.DataFrame:
    """2,000 ratings planted by biases, 60 customers and 40 videos."""
    random = np.random.default_rng(0)
    customer, video = random.integers(0, 60, 2000), random.integers(0, 40, 2000)
    bias = random.normal(0, 0.7, 60)[customer] + random.normal(0, 0.5, 40)[video]
    return pd.DataFrame(
        {
            "customer": customer,
            "video": video,
            "star_rating": np.round(7 + bias + random.normal(0, 0.5, 2000), 2),
        }
    )


class TestErrors:
    def test_a_set_has_no_error_against_itself(self) -> None:
        y = [1.0, 4.5, -3]
        assert evaluation.errors(y, y).to_dict() == {"mse": 0, "rmse": 0, "mae": 0}

    def test_by_hand(self) -> None:
        found = evaluation.errors(np.array([1, 2, 3], np.float32), pd.Series([2, 2, 1]))
        assert found["mse"] == pytest.approx(5 / 3)
        assert found["rmse"] == pytest.approx(math.sqrt(5 / 3))
        assert found["mae"] == pytest.approx(1)

    def test_the_mean_has_the_standard_deviation_as_error(self, rated: pd.DataFrame) -> None:
        mean = evaluation.naive_mean(rated)
        found = evaluation.errors(rated["star_rating"], mean)
        assert found["rmse"] == pytest.approx(rated["star_rating"].std(ddof=0))

    @pytest.mark.parametrize(
        ("y", "prediction", "message"),
        [
            ([1, 2], [1], "2 ratings but 1 predictions"),
            ([], [], "There are no ratings"),
            ([1, 2], [1, math.nan], "1 of 2 predictions are not finite"),
            ([1, math.inf], [1, 1], "1 of 2 ratings are not finite"),
            ([1, 2], ["a", "b"], "predictions are not all numbers"),
            ([[1, 2]], [1, 2], "one number a row"),
        ],
    )
    def test_bad_input_is_told(self, y: list, prediction: list, message: str) -> None:
        with pytest.raises(DataError, match=message):
            evaluation.errors(y, prediction)

    def test_clipping_never_hurts(self, rated: pd.DataFrame) -> None:
        y = rated["star_rating"]
        prediction = y + np.random.default_rng(1).normal(0, 3, len(y))
        clipped = evaluation.clip(prediction, y.min(), y.max())
        assert clipped.min() >= y.min()
        assert clipped.max() <= y.max()
        assert evaluation.errors(y, clipped)["rmse"] < evaluation.errors(y, prediction)["rmse"]
        with pytest.raises(DataError, match="cannot be clipped to 5 … 1"):
            evaluation.clip(y, 5, 1)


class TestBiasBaseline:
    def test_it_is_the_ridge_regression_it_says_it_is(self, rated: pd.DataFrame) -> None:
        customer, video, rating = (rated[name].to_numpy() for name in rated)
        baseline = evaluation.BiasBaseline(3, 5).fit(
            customer, video, rating, 60, 40, sweeps=500, tolerance=1e-12
        )
        design = np.zeros((len(rating), 100))
        design[np.arange(len(rating)), customer] = 1
        design[np.arange(len(rating)), 60 + video] = 1
        penalty = np.diag([3.0] * 60 + [5.0] * 40)
        biases = np.linalg.solve(design.T @ design + penalty, design.T @ (rating - rating.mean()))
        np.testing.assert_allclose(baseline.customer_bias, biases[:60], atol=1e-8)
        np.testing.assert_allclose(baseline.video_bias, biases[60:], atol=1e-8)
        np.testing.assert_allclose(
            baseline.predict(customer, video), rating.mean() + design @ biases, atol=1e-8
        )

    def test_without_damping_it_finds_exact_biases(self) -> None:
        customer, video = (index.ravel() for index in np.indices((4, 3)))
        rating = 3 + np.array([1, -1, 0.5, -0.5])[customer] + np.array([2, 0, -2])[video]
        baseline = evaluation.BiasBaseline(0, 0).fit(customer, video, rating, 6, 4)
        np.testing.assert_allclose(baseline.predict(customer, video), rating, atol=1e-9)

    def test_one_who_was_never_seen_has_no_bias(self, rated: pd.DataFrame) -> None:
        known = rated[rated["customer"] < 50]
        baseline = evaluation.BiasBaseline().fit(known["customer"], known["video"], known["star_rating"])
        of_unknown = baseline.predict(np.array([55, 1000]), np.array([3, 2000]))
        assert of_unknown[0] == pytest.approx(baseline.mean + baseline.video_bias[3])
        assert of_unknown[1] == pytest.approx(baseline.mean)

    def test_heavy_damping_leads_to_the_mean(self, rated: pd.DataFrame) -> None:
        baseline = evaluation.BiasBaseline(1e9, 1e9).fit(
            rated["customer"], rated["video"], rated["star_rating"]
        )
        np.testing.assert_allclose(
            baseline.predict(rated["customer"], rated["video"]), baseline.mean, atol=1e-4
        )

    def test_the_best_damping_is_that_of_the_validation_rows(self, rated: pd.DataFrame) -> None:
        train, validate = rated[:400], rated[400:800]
        best = evaluation.BiasBaseline.fit_best(train, validate, 60, 40)
        assert {best.customer_damping, best.video_damping} <= set(evaluation.DAMPINGS)
        for damping in evaluation.DAMPINGS:
            other = evaluation.BiasBaseline(damping, damping)
            other.fit(train["customer"], train["video"], train["star_rating"], 60, 40)
            prediction = other.predict(validate["customer"], validate["video"])
            assert (
                best.validation_rmse <= evaluation.errors(validate["star_rating"], prediction)["rmse"] + 1e-4
            )
        test = rated[800:]
        naive = evaluation.errors(test["star_rating"], evaluation.naive_mean(train))
        found = evaluation.errors(test["star_rating"], best.predict(test["customer"], test["video"]))
        assert found["rmse"] < 0.8 * naive["rmse"]

    def test_the_scale_of_ratings_does_not_matter(self, rated: pd.DataFrame) -> None:
        first = evaluation.BiasBaseline().fit(rated["customer"], rated["video"], rated["star_rating"])
        scaled = evaluation.BiasBaseline().fit(
            rated["customer"], rated["video"], 100 * rated["star_rating"] - 50
        )
        np.testing.assert_allclose(scaled.video_bias, 100 * first.video_bias, rtol=1e-9)

    def test_bad_input_is_told(self, rated: pd.DataFrame) -> None:
        with pytest.raises(DataError, match="Call fit first"):
            evaluation.BiasBaseline().predict([0], [0])
        with pytest.raises(DataError, match="2 ratings but 1 values of customer"):
            evaluation.BiasBaseline().fit([0], [0, 1], [1.0, 2.0])
        with pytest.raises(DataError, match="video must hold numbers from 0 to 0"):
            evaluation.BiasBaseline().fit([0, 1], [0, 1], [1.0, 2.0], 2, 1)
        with pytest.raises(DataError, match="customer must hold numbers from 0 up"):
            evaluation.BiasBaseline().fit([0, -1], [0, 1], [1.0, 2.0])
        with pytest.raises(DataError, match="customer must hold whole numbers"):
            evaluation.BiasBaseline().fit([0.5, 1], [0, 1], [1.0, 2.0])
        with pytest.raises(ParameterError, match="video_damping"):
            evaluation.BiasBaseline(1, -1)
        with pytest.raises(DataError, match=r"no column star_rating.*`star_ratings`"):
            evaluation.BiasBaseline.fit_best(rated.rename(columns={"star_rating": "star_ratings"}), rated)
        with pytest.raises(ParameterError, match="no damping"):
            evaluation.BiasBaseline.fit_best(rated, rated, dampings=())


class TestComparing:
    def test_a_row_for_each_prediction_in_order(self, rated: pd.DataFrame) -> None:
        y = rated["star_rating"]
        table = evaluation.compare(rated, {"mean": y.mean(), "half": (y + y.mean()) / 2, "truth": y})
        assert table.index.tolist() == ["mean", "half", "truth"]
        assert table.columns.tolist() == ["rmse", "mse", "mae", "ndcg@10"]
        assert table.loc["half", "rmse"] == pytest.approx(table.loc["mean", "rmse"] / 2)
        assert table.loc["truth"].tolist() == pytest.approx([0, 0, 0, 1])

    def test_a_bad_prediction_is_called_by_name(self, rated: pd.DataFrame) -> None:
        with pytest.raises(DataError, match="model: There are 2,000 ratings but 3 predictions"):
            evaluation.compare(rated, {"model": [1, 2, 3]})

    def test_by_number_of_ratings(self) -> None:
        test = pd.DataFrame({"customer": [0, 0, 1, 2, 3], "star_rating": [1.0, 2, 3, 4, 5]})
        customers = pd.DataFrame({"customer": [3, 2, 1, 0], "train_ratings": [200, 4, 3, 0]})
        table = evaluation.by_number_of_ratings(test, {"a": 2.0, "b": test["star_rating"]}, customers)
        assert table.index.tolist() == ["0", "3 – 5", "101 or more"]
        assert table.index.name == "ratings per customer"
        assert table["test ratings"].tolist() == [2, 2, 1]
        np.testing.assert_allclose(table["a"], [math.sqrt(0.5), math.sqrt(2.5), 3])
        assert (table["b"] == 0).all()

    def test_all_test_rows_make_up_the_whole_error(self, rated: pd.DataFrame) -> None:
        videos = pd.DataFrame(
            {"video": range(40), "train_ratings": rated["video"].value_counts().sort_index()}
        )
        table = evaluation.by_number_of_ratings(rated, {"mean": 7.0}, videos, edges=(0, 40, 50, 60))
        mse = np.average(table["mean"] ** 2, weights=table["test ratings"])
        assert mse == pytest.approx(evaluation.errors(rated["star_rating"], 7.0)["mse"])

    def test_a_table_that_does_not_fit_is_told(self, rated: pd.DataFrame) -> None:
        few = pd.DataFrame({"customer": [0], "train_ratings": [1]})
        with pytest.raises(DataError, match="A customer of the test rows is missing"):
            evaluation.by_number_of_ratings(rated, {"a": 1.0}, few)
        with pytest.raises(DataError, match="customer or video is needed"):
            evaluation.by_number_of_ratings(rated, {"a": 1.0}, few[["train_ratings"]])
        with pytest.raises(ParameterError, match="ascending"):
            evaluation.by_number_of_ratings(rated, {"a": 1.0}, few, edges=(3, 1))


class TestCalibration:
    def test_the_groups_are_the_whole(self, rated: pd.DataFrame) -> None:
        prediction = rated["star_rating"] + np.random.default_rng(2).normal(0, 1, len(rated))
        table = evaluation.calibration(rated["star_rating"], prediction, bins=8)
        assert len(table) == 8
        assert table["ratings"].sum() == len(rated)
        assert table["ratings"].max() - table["ratings"].min() <= 1
        assert table["predicted"].is_monotonic_increasing
        assert np.average(table["given"], weights=table["ratings"]) == pytest.approx(
            rated["star_rating"].mean()
        )
        assert np.average(table["predicted"], weights=table["ratings"]) == pytest.approx(prediction.mean())

    def test_equal_predictions_stay_together(self) -> None:
        table = evaluation.calibration([1, 2, 3, 4], 2.5)
        assert table[["predicted", "given", "ratings"]].to_numpy().tolist() == [[2.5, 2.5, 4]]
        assert table["standard error"][0] == pytest.approx(np.std([1, 2, 3, 4], ddof=1) / 2)
        two = evaluation.calibration([1, 1, 1, 5], [0, 0, 0, 9])
        assert two["ratings"].tolist() == [3, 1]
        assert np.isnan(two["standard error"][1])

    def test_no_group_is_told(self) -> None:
        with pytest.raises(ParameterError, match="at least one group"):
            evaluation.calibration([1], [1], bins=0)


def ndcg_of_one(gain: list[float], order: list[int], at: int) -> float:
    reached = sum(gain[item] / math.log2(place + 2) for place, item in enumerate(order[:at]))
    best = sum(value / math.log2(place + 2) for place, value in enumerate(sorted(gain, reverse=True)[:at]))
    return reached / best


class TestNdcg:
    def test_by_hand(self) -> None:
        test = pd.DataFrame({"customer": [0, 1, 0, 0], "star_rating": [5.0, 1, 2, 4]})
        found = evaluation.ndcg(test, [0.1, 0.5, 0.2, 0.3], at=2)
        assert found == pytest.approx(ndcg_of_one([4, 1, 3], [2, 1, 0], 2))

    def test_it_agrees_with_a_loop_over_customers(self, rated: pd.DataFrame) -> None:
        prediction = rated["star_rating"].to_numpy() + np.random.default_rng(3).normal(0, 1, len(rated))
        lowest = rated["star_rating"].min()
        expected = []
        for _, rows in rated.assign(prediction=prediction).groupby("customer"):
            order = np.argsort(-rows["prediction"].to_numpy()).tolist()
            expected.append(ndcg_of_one((rows["star_rating"] - lowest).tolist(), order, 10))
        assert evaluation.ndcg(rated, prediction) == pytest.approx(np.mean(expected))

    def test_perfect_and_worst(self, rated: pd.DataFrame) -> None:
        y = rated["star_rating"]
        worst = evaluation.ndcg(rated, -y)
        assert evaluation.ndcg(rated, y) == pytest.approx(1)
        assert worst < evaluation.ndcg(rated, 0.0) < 1

    def test_equal_predictions_count_as_the_mean_of_all_their_orders(self) -> None:
        test = pd.DataFrame({"customer": [0, 0, 0], "star_rating": [1.0, 2, 4]})
        orders = [[2, 0, 1], [2, 1, 0]]
        expected = np.mean([ndcg_of_one([0, 1, 3], order, 2) for order in orders])
        assert evaluation.ndcg(test, [1, 1, 2], at=2) == pytest.approx(expected)

    def test_neither_row_order_nor_scale_matter(self, rated: pd.DataFrame) -> None:
        prediction = np.random.default_rng(4).normal(0, 1, len(rated))
        mixed = np.random.default_rng(5).permutation(len(rated))
        found = evaluation.ndcg(rated, prediction)
        assert evaluation.ndcg(rated.iloc[mixed], prediction[mixed]) == pytest.approx(found)
        assert evaluation.ndcg(
            rated.assign(star_rating=3 * rated["star_rating"] - 99), prediction
        ) == pytest.approx(found)

    def test_customers_who_rate_all_alike_are_left_out(self) -> None:
        test = pd.DataFrame({"customer": [0, 0, 1, 2, 2], "star_rating": [3.0, 3, 5, 1, 2]})
        assert evaluation.ndcg(test, [1, 2, 3, 1, 2]) == pytest.approx(1)
        assert math.isnan(evaluation.ndcg(test[:3], [1, 2, 3]))

    def test_a_list_of_no_place_is_told(self, rated: pd.DataFrame) -> None:
        with pytest.raises(ParameterError, match="at least one place"):
            evaluation.ndcg(rated, 1.0, at=0)


class TestAccepting:
    @pytest.mark.parametrize(
        ("rmse", "margin", "expected"),
        [(0.99, 0.0, True), (1.0, 0.0, False), (0.99, 0.02, False), (0.97, 0.02, True), (1.5, 0.5, False)],
    )
    def test_better_by_a_margin(self, rmse: float, margin: float, expected: bool) -> None:
        assert evaluation.accepted(rmse, 1.0, margin) is expected

    def test_bad_input_is_told(self) -> None:
        with pytest.raises(DataError, match="baseline_rmse is nan"):
            evaluation.accepted(1.0, math.nan)
        with pytest.raises(ParameterError, match="margin"):
            evaluation.accepted(1.0, 1.0, 5)
