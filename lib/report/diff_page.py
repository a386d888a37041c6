"""The page that compares two runs, figures side by side."""

from __future__ import annotations

from itertools import zip_longest
from pathlib import Path
from typing import Any

from lib.comparison import Comparison
from lib.report import reading, rendering, words


def render(outputs: Path, compared: Comparison) -> str:
    """Return the page of a comparison.

    Parameters
    ----------
    outputs : Path
        The folder of all runs.
    compared : Comparison
    """
    before, after = compared.before.run_id, compared.after.run_id
    runs = [reading.read(outputs / run_id) for run_id in (before, after)]
    pairs, same = [], 0
    for stage in runs[1].stages:
        other = next((one for one in runs[0].stages if one.name == stage.name), None)
        for number, (one, two) in enumerate(
            zip_longest(other.figures if other else (), stage.figures), start=1
        ):
            if one is not None and two is not None and one.png == two.png:
                same += 1
                continue
            pairs.append(
                {"title": f"{stage.title}, figure {number}", "figures": [(before, one), (after, two)]}
            )
    return rendering.render(
        "diff.html.j2", "index.css", compared=compared, summary=summary(compared), pairs=pairs, same=same
    )


def summary(compared: Comparison) -> str:
    """Return in a sentence or two what differs and what became of the error."""
    kinds = [
        (len(compared.parameters), "parameter"),
        (len(compared.code), "code cell"),
        (len(compared.modules), "module"),
        (len(compared.versions), "package"),
    ]
    differ = ", ".join(words.count(number, word) for number, word in kinds if number)
    sentence = f"They differ in {differ}." if differ else "Parameters, code and packages are the same."
    rmse: Any = next((metric for metric in compared.metrics if metric.name == "rmse"), None)
    if rmse is None:
        return sentence
    if rmse.better is None:
        return f"{sentence} The error is the same."
    word = "lower" if rmse.change < 0 else "higher"
    return f"{sentence} The error is {words.percent(rmse.change / rmse.before)} {word}."
