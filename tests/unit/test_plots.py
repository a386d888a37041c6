"""The figures that notebooks and report share."""

from __future__ import annotations

import subprocess
import sys
from collections.abc import Callable, Iterator
from pathlib import Path

import matplotlib
import numpy as np
import pandas as pd
import pytest
from IPython.core.interactiveshell import InteractiveShell
from IPython.utils.capture import capture_output
from matplotlib.figure import Figure
from traitlets.config import Config

from lib import evaluation, plots
from lib.errors import DataError

PNG_START = b"\x89PNG\r\n\x1a\n"
RANDOM = np.random.default_rng(0)


def quantile_table(highest: int) -> pd.DataFrame:
    at = [0, 0.01, 0.05, 0.25, 0.5, 0.75, 0.9, 0.95, 0.99, 1]
    counts = [1, 1, 1, 1, 1, 2, 4, 5, 20, highest]
    return pd.DataFrame({"ratings": counts}, index=pd.Index(at, name="quantile"))


def search(jobs: int = 12) -> pd.DataFrame:
    random = np.random.default_rng(1)
    frame = pd.DataFrame(
        {
            "training_job_name": [f"job-{number}" for number in range(jobs)],
            "factors_lr": 10 ** random.uniform(-4, -2, jobs),
            "epochs": random.integers(1, 9, jobs),
            "factors_init_method": random.choice(["normal", "uniform"], jobs),
            "test:rmse": random.uniform(0.9, 1.1, jobs),
            "status": "Completed",
            "seconds": 3.0,
        }
    )
    frame.loc[3, "test:rmse"] = np.nan
    return frame


def curve(epochs: int) -> pd.DataFrame:
    return pd.DataFrame({"rmse": 0.9 + np.exp(-np.arange(epochs))}, index=pd.RangeIndex(epochs, name="epoch"))


ROWS = pd.DataFrame(
    {"customer": RANDOM.integers(0, 200, 3000), "star_rating": RANDOM.integers(1, 11, 3000).astype(float)}
)
PREDICTIONS = {
    "naive mean": ROWS["star_rating"].mean(),
    "bias baseline": 0.8 * ROWS["star_rating"] + RANDOM.normal(0, 1, len(ROWS)),
    "model": 0.9 * ROWS["star_rating"] + RANDOM.normal(0, 0.5, len(ROWS)),
}
CUSTOMERS = pd.DataFrame({"customer": range(200), "train_ratings": RANDOM.integers(0, 150, 200)})
SCORES = pd.DataFrame(
    {"title": "Film", "c1": RANDOM.normal(4, 1, 40_000), "c$_2^": RANDOM.normal(4, 1, 40_000)}
)

FIGURES: dict[str, Callable[[], Figure]] = {
    "long tail": lambda: plots.long_tail(quantile_table(250), quantile_table(90_000)),
    "stars": lambda: plots.star_histogram(pd.DataFrame({"ratings": [3, 5, 9]}, index=[0.5, 1, 5])),
    "one star": lambda: plots.star_histogram(pd.Series([3], index=[4.0])),
    "many different stars": lambda: plots.star_histogram(
        pd.Series(range(1, 201), index=np.linspace(-9, 9, 200))
    ),
    "learning curve": lambda: plots.learning_curve(curve(30), test=1.01),
    "long learning curve": lambda: plots.learning_curve(curve(200).reset_index(), test=0.9001),
    "learning curve with validation": lambda: plots.learning_curve(
        curve(30).assign(test_rmse=lambda table: 1.1 * table["rmse"]), test=1.01
    ),
    "one epoch": lambda: plots.learning_curve(curve(1)),
    "tuning": lambda: plots.tuning(search(), hyperparameters=["factors_lr", "epochs", "factors_init_method"]),
    "tuning of one job": lambda: plots.tuning(search(12)[:1]),
    "calibration": lambda: plots.calibration(
        evaluation.calibration(ROWS["star_rating"], PREDICTIONS["model"])
    ),
    "calibration of a constant": lambda: plots.calibration(evaluation.calibration(ROWS["star_rating"], 5.0)),
    "error by ratings": lambda: plots.error_by_ratings(
        evaluation.by_number_of_ratings(ROWS, PREDICTIONS, CUSTOMERS)
    ),
    "errors": lambda: plots.errors_compared(evaluation.compare(ROWS, PREDICTIONS), best_reachable=0.4),
    "two customers": lambda: plots.score_comparison(SCORES, correlation=-0.1),
}


@pytest.mark.parametrize("name", FIGURES)
def test_a_figure_is_small_repeatable_and_says_what_its_axes_are(name: str) -> None:
    figure = FIGURES[name]()
    shown = [axes for axes in figure.axes if axes.get_visible()]
    assert all(axes.get_xlabel() or axes.get_shared_x_axes().joined(axes, shown[-1]) for axes in shown)
    assert shown[0].get_ylabel() or name == "errors"
    image = plots.png(figure)
    assert image.startswith(PNG_START)
    assert len(image) < 60_000
    width, height = (int.from_bytes(image[start : start + 4], "big") for start in (16, 20))
    assert 500 <= width <= 700
    assert height <= 700
    assert b"Software" not in image
    assert b"tIME" not in image
    assert plots.png(FIGURES[name]()) == image


def test_the_users_own_style_stays_as_it_was() -> None:
    before = dict(matplotlib.rcParams)
    plots.png(plots.learning_curve(curve(3)))
    assert dict(matplotlib.rcParams) == before


def test_pyplot_is_not_imported() -> None:
    script = "import sys; from lib import plots; import pandas as pd\n"
    script += "plots.png(plots.star_histogram(pd.Series([1, 2], index=[1.0, 2.0])))\n"
    script += "sys.exit('matplotlib.pyplot' in sys.modules)"
    assert subprocess.run([sys.executable, "-c", script], check=False).returncode == 0


@pytest.fixture
def shell(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[InteractiveShell]:
    monkeypatch.setenv("IPYTHONDIR", str(tmp_path))
    yield InteractiveShell.instance(config=Config({"HistoryManager": {"enabled": False}}))
    InteractiveShell.clear_instance()


@pytest.mark.usefixtures("shell")
def test_a_shown_figure_carries_its_alternative_text_and_is_closed() -> None:
    figure = plots.learning_curve(curve(3))
    with capture_output() as captured:
        plots.show(figure, "RMSE falls to 0.9")
    (output,) = captured.outputs
    assert output.metadata == {"image/png": {"alt": "RMSE falls to 0.9"}}
    assert output.data["image/png"].startswith("iVBOR")
    assert not figure.axes
    with pytest.raises(DataError, match="needs an alternative text"):
        plots.show(plots.learning_curve(curve(3)), " ")


def test_the_best_job_is_that_of_the_objective() -> None:
    jobs = search()
    lowest, highest = (plots.tuning(jobs, minimize=minimize).get_suptitle() for minimize in (True, False))
    assert f"{jobs['test:rmse'].min():.4f}, job {jobs['test:rmse'].idxmin() + 1} " in lowest
    assert f"{jobs['test:rmse'].max():.4f}, job {jobs['test:rmse'].idxmax() + 1} " in highest
    assert "1 without a result" in lowest


def test_what_cannot_be_drawn_is_told() -> None:
    jobs = search()
    with pytest.raises(DataError, match=r"no column test:rmsf\. Did you mean `test:rmse`"):
        plots.tuning(jobs, objective="test:rmsf")
    with pytest.raises(DataError, match="No job of the search gave test:rmse"):
        plots.tuning(jobs.assign(**{"test:rmse": None}))
    with pytest.raises(DataError, match="has no epoch"):
        plots.learning_curve(curve(0))
    with pytest.raises(DataError, match="two customers are needed, not of 1"):
        plots.score_comparison(SCORES[["title", "c1"]])
    with pytest.raises(DataError, match="no column ndcg"):
        plots.errors_compared(evaluation.compare(ROWS, PREDICTIONS), column="ndcg")
