"""The figures that the notebooks and the report share.

Each function returns a matplotlib ``Figure``, about 700 pixels wide and meant for a white page; `show` displays it
in a notebook with its alternative text.  Figures are made without pyplot, so there is no global state and no
display is needed, and the same numbers give the same bytes.

Colours are those of Okabe and Ito, which colour-blind people can tell apart; where it matters, shape or position
tells the same.
"""

from __future__ import annotations

import functools
import io
import warnings
from collections.abc import Callable, Sequence
from typing import TYPE_CHECKING, Any, ParamSpec, TypeVar

import numpy as np
import pandas as pd

from lib.errors import DataError, did_you_mean

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

BLUE, ORANGE, GREEN, VERMILION = "#0072B2", "#E69F00", "#009E73", "#D55E00"
INK, MUTED, FAINT, GRID = "#1f2933", "#5f6b7a", "#b8c0cc", "#e4e7eb"
LINES = ((MUTED, "s"), (VERMILION, "^"), (BLUE, "o"), (GREEN, "D"), (ORANGE, "v"), (INK, "P"))
"""Colour and marker of the first, second, … line of a figure."""

WIDTH, DPI = 7.0, 100  # inches, pixels an inch: 700 pixels
MOST_BARS = 25
MOST_POINTS = 1500

STYLE: Any = {
    "font.family": "DejaVu Sans",
    "font.size": 10,
    "text.color": INK,
    "axes.titlesize": 11,
    "axes.titleweight": "bold",
    "axes.titlelocation": "left",
    "axes.titlepad": 10,
    "axes.labelsize": 10,
    "axes.labelcolor": INK,
    "axes.edgecolor": FAINT,
    "axes.linewidth": 0.8,
    "axes.spines.top": False,
    "axes.spines.right": False,
    "axes.axisbelow": True,
    "axes.grid": True,
    "axes.grid.axis": "y",
    "grid.color": GRID,
    "grid.linewidth": 0.8,
    "xtick.color": MUTED,
    "ytick.color": MUTED,
    "xtick.labelsize": 9,
    "ytick.labelsize": 9,
    "xtick.major.size": 0,
    "ytick.major.size": 0,
    "xtick.minor.size": 0,
    "ytick.minor.size": 0,
    "lines.linewidth": 2,
    "lines.markersize": 5,
    "legend.frameon": False,
    "legend.fontsize": 9,
    "figure.facecolor": "white",
    "figure.dpi": DPI,
    "savefig.dpi": DPI,
    "svg.hashsalt": "reelbook",
}

_P = ParamSpec("_P")
_R = TypeVar("_R")


def _styled(function: Callable[_P, _R]) -> Callable[_P, _R]:
    """Run a function with the house style, and leave the user's own as it was."""

    @functools.wraps(function)
    def styled(*args: _P.args, **kwargs: _P.kwargs) -> _R:
        import matplotlib

        with matplotlib.rc_context(STYLE):
            return function(*args, **kwargs)

    return styled


@_styled
def png(figure: Figure) -> bytes:
    """Return a figure as PNG: the same bytes for the same figure, no date and no program name in it."""
    file = io.BytesIO()
    with warnings.catch_warnings():
        warnings.filterwarnings("ignore", "Glyph .* missing from font")  # an id in a script the font lacks
        figure.savefig(file, format="png", metadata={"Software": None})
    return file.getvalue()


def show(figure: Figure, alt: str) -> None:
    """Display a figure in a notebook as PNG, with alternative text for those who cannot see it, and close it.

    Parameters
    ----------
    figure : Figure
        From a function of this module.
    alt : str
        One sentence: what is seen.  It becomes the output's metadata ``{"image/png": {"alt": alt}}``.

    Raises
    ------
    DataError
        If there is no alternative text.
    """
    from IPython.display import Image, display

    if not alt.strip():
        raise DataError("A figure needs an alternative text.", hint="Say in one sentence what is seen.")
    display(Image(data=png(figure), format="png", alt=alt))
    figure.clear()


@_styled
def long_tail(customers: pd.DataFrame, videos: pd.DataFrame) -> Figure:
    """Draw how many ratings customers and videos have, from the fewest to the most.

    Parameters
    ----------
    customers, videos : DataFrame
        From `lib.ratings.Reviews.quantiles`: indexed by quantile, one column.
    """
    figure = _figure(3.4)
    panels = _axes(figure, 1, 2, sharey=True)
    for axes, table, kind, colour, told in zip(
        panels, (customers, videos), ("customers", "videos"), (BLUE, ORANGE), (0.95, 0.75), strict=True
    ):
        share, counts = table.index.to_numpy(float) * 100, table.iloc[:, 0].to_numpy(float)
        axes.plot(share, counts, color=colour, marker="o", markersize=3.5, clip_on=False, zorder=3)
        axes.set_xlim(0, 100)
        axes.set_xlabel(f"{kind}, those with the fewest first (%)")
        count_at = dict(zip(share.round(6), counts, strict=True))
        title = kind.capitalize()
        if told * 100 in count_at:
            title += f": {100 * (1 - told):.0f} % have {count_at[told * 100]:,.0f} or more"
        axes.set_title(title)
        for percent in (50, 75, 95, 100):
            if percent in count_at:
                label, place = f"{count_at[percent]:,.0f}", (percent, count_at[percent])
                axes.annotate(
                    label, place, xytext=(-6, 3), textcoords="offset points", ha="right", fontsize=9
                )
    panels[0].set_yscale("log")
    panels[0].yaxis.set_major_formatter("{x:,.0f}")
    panels[0].set_ylim(0.8, max(customers.iloc[:, 0].max(), videos.iloc[:, 0].max()) * 1.5)
    panels[0].set_ylabel("ratings (log scale)")
    return figure


@_styled
def star_histogram(counts: pd.DataFrame | pd.Series) -> Figure:
    """Draw how often each rating was given.

    Parameters
    ----------
    counts : DataFrame or Series
        From `lib.ratings.Reviews.star_counts`: indexed by rating, how often.  More than 25 different ratings
        are drawn in 20 classes.
    """
    series = counts.iloc[:, 0] if isinstance(counts, pd.DataFrame) else counts
    values, times = series.index.to_numpy(float), series.to_numpy(float)
    figure = _figure(3.2)
    (axes,) = _axes(figure, 1, 1)
    if len(values) > MOST_BARS:
        heights, edges = np.histogram(values, bins=20, weights=times)
        axes.bar(edges[:-1], heights / times.sum() * 100, np.diff(edges) * 0.92, align="edge", color=BLUE)
    else:
        step = float(np.diff(values).min()) if len(values) > 1 else 1.0
        bars = axes.bar(values, times / times.sum() * 100, step * 0.72, color=BLUE)
        if len(values) <= 12:
            labels = [f"{share:.0f} %" if share >= 1 else "< 1 %" for share in times / times.sum() * 100]
            axes.bar_label(bars, labels, padding=3, color=INK, fontsize=9)
        axes.set_xticks(values, [f"{value:g}" for value in values])
    axes.margins(y=0.12)
    axes.set_xlabel("rating")
    axes.set_ylabel("share of all ratings (%)")
    axes.set_title(
        _minus(f"{int(times.sum()):,} ratings, {np.average(values, weights=times):.2f} on average")
    )
    return figure


@_styled
def learning_curve(curve: pd.DataFrame, test: float | None = None) -> Figure:
    """Draw the training error by epoch.

    Parameters
    ----------
    curve : DataFrame
        Indexed by epoch, or with a column ``epoch``; the error is ``rmse`` or ``train_rmse``, or else the first
        column.  A column ``test_rmse`` is the error on the validation rows after each epoch.
    test : float, optional
        The error on the validation rows after the last epoch.
    """
    from matplotlib.ticker import MaxNLocator

    if "epoch" in curve.columns:
        curve = curve.set_index("epoch")
    if curve.empty:
        raise DataError("The learning curve has no epoch.", hint="Did the training job write its log?")
    column = next((name for name in ("rmse", "train_rmse") if name in curve.columns), curve.columns[0])
    epochs, error = curve.index.to_numpy(), curve[column].to_numpy(float)
    name = "RMSE" if "rmse" in column else column.replace("_", " ")
    figure = _figure(3.4)
    (axes,) = _axes(figure, 1, 1)
    axes.plot(epochs, error, color=BLUE, marker="o" if len(epochs) <= 60 else None, markersize=3.5)
    axes.annotate(
        f"training {error[-1]:.3f}",
        (epochs[-1], error[-1]),
        xytext=(7, 0),
        va="center",
        color=BLUE,
        **_OUTSIDE,
    )
    if "test_rmse" in curve.columns:
        axes.plot(epochs, curve["test_rmse"], color=VERMILION)
    if test is not None:
        axes.axhline(test, color=VERMILION, linestyle=(0, (4, 2)), linewidth=1.5)
        gap = abs(test - error[-1]) / (max(error.max(), test) - min(error.min(), test) or 1)
        axes.annotate(
            f"validation {test:.3f}",
            (epochs[-1], test),
            xytext=(7, (11 if test >= error[-1] else -11) if gap < 0.06 else 0),
            va="center",
            color=VERMILION,
            **_OUTSIDE,
        )
    axes.set_xlim(epochs[0] - 0.01 * len(epochs), epochs[-1])
    if len(epochs) == 1:
        axes.set_xlim(epochs[0] - 1, epochs[0] + 1)
    axes.xaxis.set_major_locator(MaxNLocator(integer=True, min_n_ticks=1))
    axes.set_xlabel("epoch")
    axes.set_ylabel(f"{name} (units of the rating)" if name == "RMSE" else name)
    axes.set_title("Learning curve")
    return figure


@_styled
def tuning(
    jobs: pd.DataFrame,
    objective: str = "test:rmse",
    hyperparameters: Sequence[str] | None = None,
    minimize: bool = True,
) -> Figure:
    """Draw the objective of each training job of a search, and against each hyperparameter searched.

    Parameters
    ----------
    jobs : DataFrame
        A row a job, in the order they were started; the objective (NaN where a job gave none) and the
        hyperparameters are columns.
    objective : str
        Which column is the objective.
    hyperparameters : sequence of str, optional
        Which columns are hyperparameters; by default all other columns of numbers but ``seconds``.
    minimize : bool
        Whether lower is better.
    """
    from matplotlib.ticker import MaxNLocator

    if hyperparameters is None:
        numbers = jobs.select_dtypes("number").columns
        hyperparameters = [name for name in numbers if name not in (objective, "seconds")]
    for name in (objective, *hyperparameters):
        if name not in jobs.columns:
            hint = did_you_mean(name, [str(column) for column in jobs.columns])
            raise DataError(f"The table of jobs has no column {name}.", hint=hint[:1].upper() + hint[1:])
    values = pd.to_numeric(jobs[objective], errors="coerce").to_numpy(float)
    finished = np.isfinite(values)
    if not finished.any():
        raise DataError(f"No job of the search gave {objective}.", hint="Look at the jobs' status and logs.")
    best = int(np.nanargmin(values) if minimize else np.nanargmax(values))
    panels = 1 + len(hyperparameters)
    across = min(panels, 3)
    down = -(-panels // across)
    figure = _figure(0.3 + 2.9 * down)
    number = np.arange(1, len(values) + 1)
    rows: list[tuple[str, Any, bool]] = [("training job", number, False)]
    rows += [(name, *_axis_of(jobs[name])) for name in hyperparameters]
    for place, (axes, (label, x, logarithmic)) in enumerate(
        zip(_axes(figure, down, across, sharey=True), rows, strict=False)
    ):
        if place == 0:
            running = (np.fmin if minimize else np.fmax).accumulate(values)
            axes.step(number, running, where="post", color=FAINT, linewidth=1.5, zorder=1)
            axes.xaxis.set_major_locator(MaxNLocator(5, integer=True))
        axes.scatter(x[finished], values[finished], color=BLUE, s=26, alpha=0.85, linewidths=0, zorder=2)
        axes.scatter(x[best], values[best], color=VERMILION, marker="*", s=190, edgecolor="white", zorder=3)
        axes.margins(x=0.2 if x.dtype == object else 0.1, y=0.1)
        if logarithmic:
            _make_logarithmic(axes, x)
        axes.set_xlabel(label)
        if place % across == 0:
            axes.set_ylabel(objective)
    for unused in figure.axes[panels:]:
        unused.set_visible(False)
    title = f"Best of {len(values)} jobs: {values[best]:.4f}, job {best + 1} (★)"
    if not finished.all():
        title += f"; {np.count_nonzero(~finished)} without a result"
    figure.suptitle(title, x=0.01, ha="left", fontsize=11, fontweight="bold")
    return figure


@_styled
def calibration(table: pd.DataFrame) -> Figure:
    """Draw what was given against what was predicted: on the line, predictions are right on average.

    Parameters
    ----------
    table : DataFrame
        From `lib.evaluation.calibration`.
    """
    figure = _figure(4.4, width=5.2)
    (axes,) = _axes(figure, 1, 1)
    predicted, given = table["predicted"].to_numpy(), table["given"].to_numpy()
    error = 1.96 * table["standard error"].fillna(0).to_numpy()
    low = float(min(predicted.min(), (given - error).min()))
    high = float(max(predicted.max(), (given + error).max()))
    margin = 0.05 * ((high - low) or 1.0)
    limits = (low - margin, high + margin)
    axes.plot(limits, limits, color=FAINT, linewidth=1.5, zorder=1)
    axes.errorbar(predicted, given, error, color=BLUE, marker="o", linewidth=1.5, elinewidth=1.2, zorder=2)
    axes.set_xlim(limits)
    axes.set_ylim(limits)
    axes.set_aspect("equal")
    axes.grid(True, axis="both")
    axes.set_xlabel("mean predicted rating")
    axes.set_ylabel("mean rating given, ± 95 % interval")
    axes.set_title(f"Calibration: {len(table)} groups of {int(table['ratings'].sum()):,} ratings")
    return figure


@_styled
def error_by_ratings(table: pd.DataFrame) -> Figure:
    """Draw the RMSE by how many training ratings a customer, or video, has, and how many test rows that are.

    Parameters
    ----------
    table : DataFrame
        From `lib.evaluation.by_number_of_ratings`.
    """
    figure = _figure(4.2)
    grid = figure.add_gridspec(2, 1, height_ratios=[3, 1])
    above = figure.add_subplot(grid[0])
    below = figure.add_subplot(grid[1], sharex=above)
    place = np.arange(len(table))
    predictions = [name for name in table.columns if name != "test ratings"]
    for name, (colour, marker) in zip(predictions, _line_styles(len(predictions)), strict=True):
        above.plot(place, table[name], color=colour, marker=marker, label=_plain(name), linewidth=1.8)
    above.set_ylabel("RMSE\n(units of the rating)")
    above.set_title(f"Error by number of training {table.index.name or 'ratings'}", pad=28)
    above.tick_params(labelbottom=False)
    above.margins(y=0.15)
    _legend_below_title(above, len(predictions))
    bars = below.bar(place, table["test ratings"], 0.6, color=FAINT)
    below.bar_label(
        bars, [f"{count:,}" for count in table["test ratings"]], padding=2, color=MUTED, fontsize=8
    )
    below.margins(y=0.35)
    below.set_yticks([])
    below.grid(False)
    below.spines["left"].set_visible(False)
    below.set_ylabel("test\nratings")
    below.set_xticks(place, [str(label) for label in table.index])
    below.set_xlabel(f"training {table.index.name or 'ratings'}")
    return figure


@_styled
def errors_compared(
    errors: pd.DataFrame, model: str | None = None, best_reachable: float | None = None, column: str = "rmse"
) -> Figure:
    """Draw the errors of several predictions as bars.

    Parameters
    ----------
    errors : DataFrame
        From `lib.evaluation.compare`: a row a prediction.  The first is what the others are measured by.
    model : str, optional
        The row to highlight; by default the last.
    best_reachable : float, optional
        The least error that any model could reach, known for generated ratings.
    column : str
        Which error.
    """
    if column not in errors.columns:
        raise DataError(f"The table of errors has no column {column}.")
    names = [str(name) for name in errors.index]
    values = errors[column].to_list()
    model = model or names[-1]
    colours = [BLUE if name == model else FAINT for name in names]
    if best_reachable is not None:
        names, values, colours = [*names, "best reachable"], [*values, best_reachable], [*colours, GREEN]
    figure = _figure(1.2 + 0.45 * len(names))
    (axes,) = _axes(figure, 1, 1)
    bars = axes.barh(np.arange(len(names)), values, 0.62, color=colours)
    if best_reachable is not None:
        axes.axvline(best_reachable, color=GREEN, linewidth=1.2, linestyle=(0, (4, 2)))
    labels = [f"{value:.4f}" for value in values]
    labels[1:] = [
        f"{label}   {value / values[0] - 1:+.1%}" for label, value in zip(labels[1:], values[1:], strict=True)
    ]
    axes.bar_label(bars, [_minus(label) for label in labels], padding=5, color=INK, fontsize=9)
    axes.set_yticks(np.arange(len(names)), [_plain(name) for name in names])
    axes.tick_params(axis="y", labelcolor=INK, labelsize=10)
    axes.invert_yaxis()
    axes.grid(False)
    axes.set_xlim(0, max(values) * 1.24)
    axes.set_xlabel(f"{column.upper()} (units of the rating); lower is better")
    axes.set_title("Error on the test ratings")
    return figure


@_styled
def score_comparison(scores: pd.DataFrame, n: int = 10, correlation: float | None = None) -> Figure:
    """Draw the scores that two customers give the same videos, a point a video.

    Parameters
    ----------
    scores : DataFrame
        From `lib.recommend.Comparison`: a row a video; column ``title`` and one for each customer.
    n : int
        How many of each one's highest scores are marked.
    correlation : float, optional
        Of the two, for the title.
    """
    customers = [name for name in scores.columns if name != "title"]
    if len(customers) != 2:
        raise DataError(f"Scores of two customers are needed, not of {len(customers)}.")
    x, y = (scores[name].to_numpy(float) for name in customers)
    top_x, top_y = (np.argsort(-values, kind="stable")[:n] for values in (x, y))
    both = np.intersect1d(top_x, top_y)
    rest = np.setdiff1d(np.arange(len(x)), np.union1d(top_x, top_y))
    drawn = rest[:: max(1, -(-len(rest) // MOST_POINTS))]
    figure = _figure(5.0, width=6.0)
    (axes,) = _axes(figure, 1, 1)
    axes.scatter(x[drawn], y[drawn], color=FAINT, s=7, linewidths=0)
    first, second = (_plain(str(name)) for name in customers)
    for label, numbers, colour, marker in (
        (f"top {n} of {first}", np.setdiff1d(top_x, both), BLUE, "o"),
        (f"top {n} of {second}", np.setdiff1d(top_y, both), ORANGE, "^"),
        ("in both", both, VERMILION, "*"),
    ):
        if len(numbers):
            size = 90 if marker == "*" else 36
            axes.scatter(x[numbers], y[numbers], color=colour, marker=marker, s=size, label=label, zorder=3)
    _legend_below_title(axes, 3)
    axes.grid(True, axis="both")
    axes.set_xlabel(f"score for customer {first}")
    axes.set_ylabel(f"score for customer {second}")
    title = f"{len(x):,} videos, two customers"
    if correlation is not None and np.isfinite(correlation):
        title += _minus(f": correlation {correlation:.2f}")
    axes.set_title(title, pad=28)
    return figure


@_styled
def learning_curves(curves: pd.DataFrame) -> Figure:
    """Draw the training errors of several runs by epoch.

    Parameters
    ----------
    curves : DataFrame
        Indexed by epoch, a column a run; epochs that a run does not have are missing.
    """
    from matplotlib.ticker import MaxNLocator

    if curves.empty:
        raise DataError("There is no learning curve to draw.")
    figure = _figure(3.4)
    (axes,) = _axes(figure, 1, 1)
    for name, (colour, marker) in zip(curves.columns, _line_styles(len(curves.columns)), strict=True):
        curve = curves[name].dropna()
        axes.plot(curve.index, curve, color=colour, marker=marker, markersize=3.5, label=_plain(str(name)))
    axes.xaxis.set_major_locator(MaxNLocator(integer=True, min_n_ticks=1))
    axes.set_xlabel("epoch")
    axes.set_ylabel("RMSE (units of the rating)")
    _legend_below_title(axes, 4)
    axes.set_title("Training error by epoch", pad=28)
    return figure


@_styled
def factor_map(points: np.ndarray, titles: pd.Series, marked: Sequence[int], share: float) -> Figure:
    """Draw videos on the two principal axes of their factors, some of them named.

    Parameters
    ----------
    points : array of shape (n, 2)
        From `lib.exploring.map_of`.
    titles : Series of length n
    marked : sequence of int
        The positions of those that are named; the first is the one that the others are near to.
    share : float
        How much of the variance this shows.
    """
    figure = _figure(5.0)
    (axes,) = _axes(figure, 1, 1)
    rest = np.setdiff1d(np.arange(len(points)), marked)[:: max(1, -(-len(points) // MOST_POINTS))]
    axes.scatter(points[rest, 0], points[rest, 1], color=FAINT, s=9, linewidths=0)
    for order, number in enumerate(marked):
        colour, size = (VERMILION, 80) if order == 0 else (BLUE, 30)
        axes.scatter(points[number, 0], points[number, 1], color=colour, s=size, zorder=3)
        name = _plain(str(titles.iloc[number]))
        axes.annotate(name if len(name) <= 34 else f"{name[:33]}…", points[number], xytext=(6, 3), **_OUTSIDE)
    axes.grid(True, axis="both")
    axes.set_xlabel("first principal axis")
    axes.set_ylabel("second principal axis")
    axes.set_title(f"{len(points):,} videos by their factors; {share:.0%} of the variance is seen here")
    return figure


_OUTSIDE: dict[str, Any] = {"textcoords": "offset points", "fontsize": 9, "annotation_clip": False}


def _figure(height: float, width: float = WIDTH) -> Figure:
    from matplotlib.figure import Figure

    figure = Figure(figsize=(width, height), layout="constrained")
    figure.get_layout_engine().set(w_pad=0.1, h_pad=0.1)  # type: ignore[call-arg, union-attr]
    return figure


def _axes(figure: Figure, down: int, across: int, sharey: bool = False) -> list[Axes]:
    return list(figure.subplots(down, across, squeeze=False, sharey=sharey).ravel())


def _legend_below_title(axes: Axes, columns: int) -> None:
    axes.legend(
        loc="lower left",
        bbox_to_anchor=(-0.01, 1.0),
        borderaxespad=0.1,
        ncols=columns,
        handletextpad=0.4,
        columnspacing=1.4,
    )


def _make_logarithmic(axes: Axes, x: np.ndarray) -> None:
    """Give a narrow axis a log scale with few, plain labels."""
    from matplotlib.ticker import LogLocator, NullFormatter

    decades = float(np.log10(x.max() / x.min()))
    axes.set_xscale("log")
    axes.xaxis.set_major_locator(LogLocator(subs=(1.0,) if decades > 2 else (1.0, 3.0)))
    axes.xaxis.set_major_formatter("{x:g}")
    axes.xaxis.set_minor_formatter(NullFormatter())
    axes.tick_params(axis="x", labelsize=8)


def _axis_of(values: pd.Series) -> tuple[np.ndarray, bool]:
    """Return a hyperparameter's values as they are drawn, and whether on a log scale."""
    numbers = pd.to_numeric(values, errors="coerce")
    if numbers.isna().any():
        return values.astype(str).to_numpy(dtype=object), False
    array = numbers.to_numpy(float)
    return array, bool(array.min() > 0 and array.max() / array.min() > 8)


def _line_styles(count: int) -> list[tuple[str, str]]:
    return [LINES[number % len(LINES)] for number in range(count)]


def _minus(text: str) -> str:
    """Return text with hyphens as minus signs."""
    return text.replace("-", "−")


def _plain(text: str) -> str:
    """Return text that matplotlib shows as it is: no mathematics between dollar signs."""
    return text.replace("$", r"\$")
