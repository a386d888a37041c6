"""Writes small stage notebooks for tests."""

from __future__ import annotations

import json
from pathlib import Path

RUN = "run_id: str = None  # the run"


def cell(source: str, kind: str = "code", tags: tuple[str, ...] = ()) -> dict:
    """Return one cell of a notebook."""
    made = {"cell_type": kind, "metadata": {"tags": list(tags)} if tags else {}, "source": source}
    return made | ({"execution_count": None, "outputs": []} if kind == "code" else {})


def write_cells(path: Path, *cells: dict, kernel: str = "python3") -> Path:
    """Write a notebook of given cells."""
    path.parent.mkdir(parents=True, exist_ok=True)
    notebook = {
        "cells": [made | {"id": f"cell-{number}"} for number, made in enumerate(cells)],
        "metadata": {"kernelspec": {"name": kernel, "display_name": kernel, "language": "python"}},
        "nbformat": 4,
        "nbformat_minor": 5,
    }
    path.write_text(json.dumps(notebook), encoding="utf-8")
    return path


def write_stage(
    folder: Path, name: str, *parameters: str, gives: str = "done=1", code: str = "x = 1"
) -> Path:
    """Write a stage notebook with these parameter lines, whose last cell publishes ``gives``."""
    return write_cells(
        folder / f"{name}.ipynb",
        cell(f"# {name}", "markdown"),
        cell("\n".join([RUN, *parameters]), tags=("parameters",)),
        cell(code),
        cell(f"publish({gives})"),
    )
