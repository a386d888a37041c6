"""Measure time to quality: how much CPU time `lib.fm` and its peers need for what RMSE, on real ratings.

Two sets: the anime ratings of ``--anime`` (by default ../shared/data), and MovieLens 100k, which is read out of
a package on PyPI and stays in ``.bench/``.  Where one cannot be had, generated ratings take its place and are
labelled so.  Rows are shuffled; 80 % are for training, 10 % for choosing settings, 10 % for the test.

``--tune`` tries every peer's grid and ours on the validation rows and writes the best settings to
``support/fm_quality_settings.json``.  Without it, all are trained with those settings on the first 90 %, and
their RMSE on the test rows is followed over the CPU seconds of training.

    .venv/bin/python benchmarks/fm_quality.py [--quick] [--markdown PAGE] [--plot PNG]
"""

from __future__ import annotations

import argparse
import itertools
import json
import math
import sys
import tempfile
import time
from collections.abc import Generator, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

ROOT = Path(__file__).resolve().parent.parent
sys.path.insert(0, str(ROOT))

import numpy as np  # noqa: E402
import scipy.sparse as sp  # noqa: E402

from benchmarks import peers  # noqa: E402  the checkout is not installed
from benchmarks.support import launch, ratings  # noqa: E402
from benchmarks.support.report import Report, figure, machine  # noqa: E402

SETTINGS = Path(__file__).resolve().parent / "support" / "fm_quality_settings.json"
SETS = ("anime", "films", "generated")
NEAR = 0.0005  # a curve has reached its best when it is this near
COUNTS = [1, 2, 3, 4, 6, 8, 12, 16, 24, 32, 48]  # epochs, for peers that cannot go on with a model

Options = dict[str, Any]
Point = dict[str, float]


@dataclass(frozen=True)
class Method:
    """A peer's method, or one of ours, and the settings that are tried for it.

    Attributes
    ----------
    name : str
        In the tables and the plot.
    runner : str
        The peer's runner, or ``lib.fm``.
    fixed : dict
        What every run is told.
    grid : dict of str to list
        Values of the settings that are tried, each with each.
    draws : int
        For a grid of ranges ``(low, high)``: how many settings are drawn, a third of them from the ranges,
        logarithmically, the others near the best so far.
    """

    name: str
    runner: str
    fixed: Options
    grid: dict[str, list[Any]]
    draws: int = 0

    @property
    def ours(self) -> bool:
        return self.runner == "lib.fm"

    def tried(self) -> Generator[Options, float | None, None]:
        """Yield the settings to be tried; send the error of each back."""
        if not self.draws:
            for values in itertools.product(*self.grid.values()):
                yield {**self.fixed, **dict(zip(self.grid, values, strict=True))}
            return
        rng = np.random.default_rng(0)
        results: list[tuple[float, dict[str, float]]] = []
        for draw in range(self.draws):
            if 3 * draw < self.draws or not results:
                drawn = {name: math.exp(rng.uniform(*np.log(ends))) for name, ends in self.grid.items()}
            else:  # near one of the best so far
                results.sort(key=lambda result: result[0])
                near = results[min(int(rng.exponential(2)), len(results) - 1)][1]
                moved = rng.random(len(near)) < 0.5
                steps = np.exp(0.5 * rng.standard_normal(len(near)) * moved)
                drawn = {name: value * step for (name, value), step in zip(near.items(), steps, strict=True)}
            drawn = {name: float(f"{value:.3g}") for name, value in drawn.items()}
            error = yield {**self.fixed, "settings": {**self.fixed["settings"], **drawn}}
            if error is not None:
                results.append((error, drawn))


_RANGES = {
    "bias_lr": [0.001, 0.1],
    "linear_lr": [0.001, 0.03],
    "factors_lr": [0.0003, 0.01],
    "linear_wd": [1e-7, 1e-3],
    "factors_wd": [1e-5, 3e-3],
    "factors_init_sigma": [0.003, 0.1],
}
_ADAM = {"bias_wd": 1e-6, "bias_init_sigma": 0.01, "linear_init_sigma": 0.01, "mini_batch_size": 100}
_ORDINARY = {"algorithm": "ordinary", "epochs": 24, "settings": _ADAM}

METHODS = [
    Method("lib.fm, k 16", "lib.fm", {**_ORDINARY, "k": 16, "epochs": 40}, _RANGES, 60),
    Method("lib.fm, k 64", "lib.fm", {**_ORDINARY, "k": 64}, _RANGES, 60),
    Method(
        "lib.fm, bayesian",
        "lib.fm",
        {"algorithm": "bayesian", "epochs": 150, "burn_in": 5},
        {"k": [8, 16, 32]},
    ),
    Method("myFM, Gibbs", "myfm", {"epochs": 150, "burn_in": 5}, {"k": [8, 16, 32]}),
    Method("fastFM, Gibbs", "fastfm", {"solver": "mcmc", "epochs": 150}, {"k": [8, 16, 32]}),
    Method(
        "fastFM, ALS",
        "fastfm",
        {"solver": "als", "epochs": 40},
        {"k": [8, 32], "l2_w": [3, 10], "l2_v": [10, 15, 25], "init": [0.1]},
    ),
    Method(
        "fastFM, SGD",
        "fastfm",
        {"solver": "sgd", "epoch_counts": COUNTS},
        {"k": [8, 32], "rate": [0.003, 0.01, 0.03], "l2_w": [0.003, 0.03], "l2_v": [0.03]},
    ),
    Method(
        "xLearn",
        "xlearn",
        {"optimizer": "adagrad", "epoch_counts": COUNTS, "init": 0.1},
        {"k": [8, 32], "rate": [0.03, 0.05, 0.1], "l2": [0.001, 0.003, 0.01]},
    ),
    Method(
        "cornac, MF",
        "cornac",
        {"epochs": 80},
        {"k": [8, 32, 64], "rate": [0.003, 0.01, 0.03], "l2": [0.03, 0.06, 0.1]},
    ),
    Method(
        "scikit-surprise, SVD",
        "surprise",
        {"epoch_counts": COUNTS},
        {"k": [8, 64], "rate": [0.005, 0.015], "l2": [0.03, 0.06, 0.1]},
    ),
    Method(
        "torch, SparseAdam",
        "torch",
        {"epochs": 20, "shuffle": True},
        {"k": [8, 32], "batch": [1000], "rate": [0.001, 0.003], "l2": [0.003, 0.01, 0.03]},
    ),
    Method("libFM, Gibbs", "libfm", {"solver": "mcmc", "epochs": 150}, {"k": [8, 16, 32]}),
]


class Bench:
    """One run: a folder for the rows' files, and what runs are told beside their settings."""

    def __init__(self, folder: Path, libfm: str | None, shorten: int) -> None:
        self.folder = folder
        self.libfm = libfm
        self.shorten = shorten

    def curve(self, method: Method, options: Options, train: Path, test: Path) -> list[Point]:
        """Train with some settings and return the points of the test error.

        Raises
        ------
        launch.Failed
            The peer is not to be had, or failed.
        """
        job = {**options, "train": str(train), "test": str(test), "seed": 0, "threads": 1}
        if "epochs" in job:
            job["epochs"] = max(job.get("burn_in", 0) + 3, job["epochs"] // self.shorten)
        if "epoch_counts" in job:
            job["epoch_counts"] = [n for n in job["epoch_counts"] if n <= max(2, COUNTS[-1] // self.shorten)]
        if method.runner == "libfm":
            if self.libfm is None:
                raise launch.Failed("not on PyPI: name its binary with --libfm")
            job["binary"] = self.libfm
        run = launch.ours("run_quality.py", job) if method.ours else launch.peer(method.runner, job)
        return [point for point in run["points"] if math.isfinite(point["rmse"])]

    def tune(self, rows: ratings.Rows, methods: list[Method]) -> Iterator[tuple[str, Options]]:
        """Yield each method's settings that did best on the validation rows."""
        train, validate, _ = ratings.split(rows)
        files = train.save(self.folder / "train.npz"), validate.save(self.folder / "validate.npz")
        for method in methods:
            results = []
            fewer = {"epoch_counts": COUNTS[1::2]} if "epoch_counts" in method.fixed else {}
            tried = method.tried()
            options = next(tried, None)
            while options is not None:
                error = None
                try:
                    points = self.curve(method, {**options, **fewer}, *files)
                except launch.Failed as why:
                    say(f"{rows.name}: {method.name}: {why}")
                    if not method.ours:
                        break
                else:
                    point = min(points, key=lambda point: point["rmse"])
                    error = point["rmse"]
                    results.append((error, options))
                    told = {name: value for name, value in options.items() if name in method.grid}
                    told = told or options.get("settings", {})
                    say(f"{rows.name}: {method.name}: {error:.4f} in {point['cpu']:.2f} s: {told}")
                try:
                    options = tried.send(error)
                except StopIteration:
                    options = None
            if results:
                yield method.name, min(results, key=lambda result: result[0])[1]

    def follow(
        self, rows: ratings.Rows, methods: list[Method], settings: dict[str, Options]
    ) -> dict[str, list[Point] | str]:
        """Return each method's curve on the test rows, or why there is none."""
        train, validate, test = ratings.split(rows)
        X, y = sp.vstack([train.X, validate.X], format="csr"), np.concatenate([train.y, validate.y])
        whole = ratings.Rows(rows.name, X, y, rows.fields)
        files = whole.save(self.folder / "train.npz"), test.save(self.folder / "test.npz")
        curves: dict[str, list[Point] | str] = {}
        for method in methods:
            options = settings.get(method.name)
            if options is None:  # not tuned for this set: the middle of what is tried
                tried = list(method.tried())
                options = tried[len(tried) // 2]
            say(f"{rows.name}: {method.name}")
            try:
                curves[method.name] = self.curve(method, options, *files)
            except launch.Failed as why:
                curves[method.name] = str(why)
        return curves


def reached(points: list[Point], rmse: float) -> float | None:
    """Return the CPU seconds after which a curve is at an RMSE or below, or None."""
    return next((point["cpu"] for point in points if point["rmse"] <= rmse), None)


def quality_table(curves: dict[str, list[Point] | str], settings: dict[str, Options]) -> list[list[str]]:
    """Return the lines of the table: each method's best, its time, and the time that ours need for the same."""
    ours = {method.name for method in METHODS if method.ours}
    lines = []
    for name, points in curves.items():
        if isinstance(points, str) or not points:
            lines.append([name, "–", "–", "–", "–", "–", str(points or "no finite error")])
            continue
        best = min(point["rmse"] for point in points)
        seconds = reached(points, best + NEAR)
        assert seconds is not None
        told = settings.get(name, {})
        words = ", ".join(
            f"{key} {value}"
            for key, value in told.items()
            if key in ("k", "rate", "l2", "l2_w", "l2_v", "batch")
        )
        if name in ours:
            lines.append([name, f"{best:.4f}", figure(seconds), "", "", "", words])
            continue
        times = {
            other: taken
            for other in sorted(ours)
            if isinstance(found := curves.get(other), list)
            and (taken := reached(found, best + NEAR)) is not None
        }
        if not times:
            lines.append([name, f"{best:.4f}", figure(seconds), "not reached", "–", "–", words])
            continue
        quickest = min(times, key=lambda other: times[other])
        ratio = f"{figure(seconds / times[quickest], 1)} ×"
        which = quickest.removeprefix("lib.fm, ")
        lines.append([name, f"{best:.4f}", figure(seconds), figure(times[quickest]), which, ratio, words])
    return lines


HEADER = (
    "",
    "best RMSE",
    "CPU s to it",
    "lib.fm's CPU s to the same",
    "which of ours",
    "less by",
    "settings",
)


def draw(curves_of: dict[str, dict[str, list[Point] | str]], path: Path) -> None:
    """Draw RMSE over CPU seconds, a panel a data set."""
    import matplotlib as mpl

    mpl.use("agg")
    import matplotlib.pyplot as plt

    figure_, panels = plt.subplots(
        1, len(curves_of), figsize=(6.2 * len(curves_of), 5.2), dpi=110, squeeze=False, layout="constrained"
    )
    ours = [method.name for method in METHODS if method.ours]
    others = [method.name for method in METHODS if not method.ours]
    colours = {name: plt.get_cmap("tab10")(place % 10) for place, name in enumerate(others)}
    for panel, (title, curves) in zip(panels[0], curves_of.items(), strict=True):
        drawn = {name: points for name, points in curves.items() if points and not isinstance(points, str)}
        lowest = [min(point["rmse"] for point in points) for points in drawn.values()]
        for name, points in drawn.items():
            xs = [max(point["cpu"], 1e-3) for point in points]
            ys = np.minimum.accumulate([point["rmse"] for point in points])
            if name in ours:
                style = {"color": "black", "linewidth": 2.4, "linestyle": ("-", "--", ":")[ours.index(name)]}
            else:
                style = {"color": colours[name], "linewidth": 1.4, "marker": "o", "markersize": 2.2}
            panel.plot(xs, ys, label=name, **style)
        span = max(lowest) - min(lowest)
        panel.set_ylim(min(lowest) - 0.1 * span, max(lowest) + 1.2 * span)
        panel.set_xscale("log")
        panel.set_xlabel("CPU seconds of training")
        panel.set_ylabel("RMSE on the test rows, best so far")
        panel.set_title(title)
        panel.grid(alpha=0.3)
    handles, labels = panels[0][0].get_legend_handles_labels()
    figure_.legend(handles, labels, loc="outside lower center", ncols=3 * len(curves_of), frameon=False)
    figure_.savefig(path)
    plt.close(figure_)


def say(what: str) -> None:
    """Tell on standard error what is being done."""
    print(f"[{time.strftime('%H:%M:%S')}] {what}", file=sys.stderr, flush=True)


def data_sets(names: list[str], anime: Path, quick: bool) -> list[ratings.Rows]:
    """Return the sets of ratings; generated ones in the place of one that is not here, and say so."""
    sets = []
    for name in names:
        if name == "anime" and anime.is_file():
            sets.append(ratings.anime(anime))
        elif name == "films":
            try:
                sets.append(ratings.films(peers.BENCH / "data"))
            except RuntimeError as error:
                say(f"MovieLens 100k is not to be had: {error}")
        elif name == "anime":
            say(f"There are no anime ratings at {anime}: name them with --anime.")
    if len(sets) < len(names):
        sets.append(ratings.with_truth(100_000, 2000, 800, seed=5))
    if quick:
        rng = np.random.default_rng(0)
        sets = [rows.take(np.sort(rng.permutation(len(rows))[:40_000])) for rows in sets]
    return sets


def main() -> int:
    """Tune, or follow all curves and print the tables."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--anime", type=Path, default=ratings.ANIME, help="the anime ratings, ratings.tsv.gz")
    parser.add_argument("--sets", nargs="+", choices=SETS, default=SETS[:2], help="default: anime films")
    parser.add_argument("--quick", action="store_true", help="fewer rows and epochs: about a minute")
    parser.add_argument("--tune", action="store_true", help="choose the settings anew: about an hour")
    parser.add_argument("--methods", nargs="+", default=[], metavar="NAME", help="only these, by name")
    parser.add_argument("--libfm", metavar="PATH", help="libFM's binary, to be measured as well")
    parser.add_argument("--markdown", type=Path, metavar="PAGE", help="a page to put the tables into")
    parser.add_argument("--plot", type=Path, metavar="PNG", help="draw RMSE over CPU seconds")
    options = parser.parse_args()
    if options.tune and options.quick:
        parser.error("settings chosen by --quick are no good: leave one of --tune and --quick out")
    unknown = set(options.methods) - {method.name for method in METHODS}
    if unknown:
        names = ", ".join(repr(method.name) for method in METHODS)
        parser.error(f"there is no method {sorted(unknown)[0]!r}; there are {names}")
    methods = [method for method in METHODS if not options.methods or method.name in options.methods]

    chosen: dict[str, dict[str, Options]] = json.loads(SETTINGS.read_text()) if SETTINGS.is_file() else {}
    report = Report("fm_quality")
    report.text(machine())
    curves_of = {}
    peers.BENCH.mkdir(exist_ok=True)
    with tempfile.TemporaryDirectory(dir=peers.BENCH) as folder:
        bench = Bench(Path(folder), options.libfm, 8 if options.quick else 1)
        for rows in data_sets(options.sets, options.anime, options.quick):
            settings = chosen.setdefault(rows.name, {})
            if options.tune:
                for name, best in bench.tune(rows, methods):
                    settings[name] = best
                    SETTINGS.write_text(json.dumps(chosen, indent=1, sort_keys=True) + "\n")
                continue
            curves = bench.follow(rows, methods, settings)
            curves_of[rows.name] = curves
            title = f"{rows.name}: {len(rows):,} ratings, {rows.X.shape[1]:,} customers and videos"
            report.table(title, HEADER, quality_table(curves, settings))
    if curves_of:
        report.text(
            f"*CPU s to it*: until the RMSE is within {NEAR} of the method's best; all on one thread. "
            "*lib.fm's CPU s to the same*: until the quickest of ours is there."
        )
    if options.markdown and curves_of:
        report.put_into(options.markdown)
    if options.plot and curves_of:
        draw(curves_of, options.plot)
    return 0


if __name__ == "__main__":
    sys.exit(main())
