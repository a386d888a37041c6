"""Measure what running a chain of notebooks costs beside its cells: Reelbook, papermill and Ploomber, in one run.

All run the same notebooks, one after the other, each in processes of their own: ours by ``run_all.py`` with its page
and records, papermill by its command line and by its API (one program), Ploomber by ``ploomber build``.  Overhead is
the wall time of the command less the time that the cells sleep, a stage; imports count as overhead for everybody.
Then the same with nothing changed, and at last the default run of the real notebooks: its wall time beside the sum of
its cells.  Ploomber lives in ``.bench/ploomber``, made on first use with pip.

    .venv/bin/python benchmarks/orchestration.py [--rounds 3] [--quick] [--markdown docs/benchmarks.md]
"""

from __future__ import annotations

import argparse
import json
import os
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable
from pathlib import Path

ROOT = Path(__file__).resolve().parent.parent
PACKAGES = [
    *("ploomber==0.23.3", "ipykernel", "papermill==2.7.0", "pandas", "scipy", "matplotlib", "scrapbook"),
    *("pydantic", "pyyaml", "tqdm"),
]
STAGES = ("first", "second", "third", "fourth")
HEAVY = "import matplotlib.pyplot\nimport pandas\nimport scipy.sparse"

sys.path.insert(0, str(ROOT))

from benchmarks.support.environments import programs_of  # noqa: E402  the checkout is not installed
from benchmarks.support.report import Report, figure, machine  # noqa: E402  the checkout is not installed

OURS = """
import sys
import run_all
from pathlib import Path
from lib.plan import Workflow
from lib.stages import Stage
notebooks, outputs, *arguments = sys.argv[1:]
stages = [Stage(name) for name in {stages!r}]
sys.exit(run_all.main(arguments, Workflow(stages, Path(notebooks), Path(outputs), None)))
"""
API = """
import sys
from pathlib import Path
import papermill
notebooks, outputs = map(Path, sys.argv[1:])
for name in {stages!r}:
    papermill.execute_notebook(notebooks / (name + ".ipynb"), outputs / (name + ".ipynb"), progress_bar=False)
"""


def write(folder: Path, imports: str, seconds: float) -> None:
    """Write the notebooks, each taking a number from the one before, and Ploomber's description of them."""
    folder.mkdir(parents=True)
    before = ""
    for name in STAGES:
        takes = f"run_id: str = None  # the run\n{before or 'zero'}: int = 0  # a number"
        sources = [
            ("markdown", f"# {name}", []),
            ("code", takes, ["parameters"]),
            ("code", f"import time\n{imports}\nfrom lib.scraps import publish".replace("\n\n", "\n"), []),
            ("code", f"time.sleep({seconds})", []),
            ("code", f"{name} = 1 + {before or 'zero'}", []),
            ("code", f"publish({name}={name})", []),
        ]
        cells = [
            {
                "cell_type": kind,
                "id": f"cell-{number}",
                "metadata": {"tags": tags} if tags else {},
                "source": source,
            }
            | ({"outputs": [], "execution_count": None} if kind == "code" else {})
            for number, (kind, source, tags) in enumerate(sources)
        ]
        spec = {"kernelspec": {"name": "python3", "display_name": "Python 3", "language": "python"}}
        notebook = {"cells": cells, "metadata": spec, "nbformat": 4, "nbformat_minor": 5}
        (folder / f"{name}.ipynb").write_text(json.dumps(notebook))
        before = name
    tasks = [
        {
            "source": f"{name}.ipynb",
            "name": name,
            "product": f"products/{name}.ipynb",
            **({"upstream": [STAGES[number - 1]]} if number else {}),
        }
        for number, name in enumerate(STAGES)
    ]
    description = {"meta": {"extract_upstream": False, "extract_product": False}, "tasks": tasks}
    (folder / "pipeline.yaml").write_text(json.dumps(description))  # JSON is YAML


def environment(folder: Path) -> dict[str, str]:
    """Return the variables of all sides: the checkout importable, outputs of notebooks run by hand kept apart."""
    return {
        **os.environ,
        "PYTHONPATH": str(ROOT),
        "REELBOOK_OUTPUTS": str(folder / "by-hand"),
        "PLOOMBER_STATS_ENABLED": "false",
        "PYTHONWARNINGS": "ignore",
    }


def timed(command: list[str], folder: Path) -> float:
    """Run a command and return its wall seconds; end the benchmark when it fails."""
    began = time.perf_counter()
    done = subprocess.run(
        command, cwd=folder, env=environment(folder), capture_output=True, text=True, check=False
    )
    seconds = time.perf_counter() - began
    if done.returncode:
        sys.exit(f"{' '.join(command[:4])} failed:\n{done.stdout[-2000:]}\n{done.stderr[-2000:]}")
    return seconds


def sides(folder: Path) -> dict[str, Callable[[int], float]]:
    """Return what runs all notebooks once, by each side."""
    python, programs = sys.executable, programs_of("ploomber", PACKAGES)
    numbers = iter(range(1000))

    def ours(round_number: int) -> float:
        run = ["--run-id", f"run-{next(numbers)}", "--no-cache"]
        code = OURS.format(stages=STAGES)
        return timed([python, "-c", code, str(folder), str(folder / "outputs"), *run], folder)

    def command_line(round_number: int) -> float:
        program = str(Path(python).parent / "papermill")
        return sum(timed([program, f"{name}.ipynb", f"executed/{name}.ipynb"], folder) for name in STAGES)

    def api(round_number: int) -> float:
        return timed([python, "-c", API.format(stages=STAGES), str(folder), str(folder / "executed")], folder)

    def build(round_number: int) -> float:
        return timed([str(programs / "ploomber"), "build", "--force"], folder)

    (folder / "executed").mkdir()
    return {
        "Reelbook": ours,
        "papermill, command line": command_line,
        "papermill, API": api,
        "Ploomber": build,
    }


def unchanged(folder: Path) -> dict[str, Callable[[int], float]]:
    """Return what runs the notebooks again when nothing has changed, by those who can tell."""
    code = OURS.format(stages=STAGES)
    numbers = iter(range(1000))

    def ours(round_number: int) -> float:
        run = ["--run-id", f"again-{next(numbers)}"]
        return timed([sys.executable, "-c", code, str(folder), str(folder / "outputs"), *run], folder)

    return {
        "Reelbook": ours,
        "Ploomber": lambda _: timed([str(programs_of("ploomber", PACKAGES) / "ploomber"), "build"], folder),
    }


def medians(sides: dict[str, Callable[[int], float]], rounds: int) -> dict[str, float]:
    """Return each side's median of several rounds, the sides taking turns."""
    found: dict[str, list[float]] = {name: [] for name in sides}
    for number in range(rounds):
        for name, run in sides.items():
            found[name].append(run(number))
    return {name: statistics.median(seconds) for name, seconds in found.items()}


def default_run() -> tuple[float, float, float]:
    """Run the real notebooks anew; return the wall seconds of command and run, and the sum of the cells."""
    run_id = f"bench-{int(time.time())}"
    with tempfile.TemporaryDirectory() as folder:
        variables = {**os.environ, "REELBOOK_OUTPUTS": folder}
        command = [sys.executable, "run_all.py", "--no-cache", "--run-id", run_id]
        began = time.perf_counter()
        subprocess.run(command, cwd=ROOT, env=variables, capture_output=True, check=True)
        wall = time.perf_counter() - began
        record = json.loads((Path(folder) / run_id / "run.json").read_text())
        cells = 0.0
        for stage in record["stages"]:
            path = Path(folder) / run_id / stage["notebook"]
            if path.exists():
                for cell in json.loads(path.read_text())["cells"]:
                    if cell["cell_type"] == "code" and not "".join(cell["source"]).startswith(
                        ("import ", "from ")
                    ):
                        cells += cell["metadata"]["papermill"]["duration"] or 0.0
        return wall, record["seconds"], cells


def main() -> int:
    """Measure, and print the tables."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--quick", action="store_true", help="one round, and not the real notebooks")
    parser.add_argument("--markdown", type=Path, help="a page that the tables are put into")
    options = parser.parse_args()
    rounds = 1 if options.quick else options.rounds
    report = Report("orchestration")
    report.text(machine())
    rows = []
    again: dict[str, float] = {}
    with tempfile.TemporaryDirectory() as temporary:
        for title, imports, seconds in (
            ("empty cells", "", 0.0),
            ("pandas, SciPy, Matplotlib; 2 s of work", HEAVY, 2.0),
        ):
            folder = Path(temporary) / title.split()[0].strip(",")
            write(folder, imports, seconds)
            found = medians(sides(folder), rounds)
            overhead = {name: wall / len(STAGES) - seconds for name, wall in found.items()}
            ours = overhead["Reelbook"]
            rows += [
                (
                    title,
                    name,
                    figure(found[name]),
                    figure(value),
                    "" if name == "Reelbook" else figure(value / ours),
                )
                for name, value in overhead.items()
            ]
            if seconds:
                again = medians(unchanged(folder), rounds)
    header = ["four notebooks", "run by", "wall, s", "overhead a stage, s", "that of Reelbook ×"]
    report.table(f"Overhead, median of {rounds}", header, rows)
    report.table(
        "The same with nothing changed",
        ["run by", "wall, s", "Reelbook ×"],
        [
            (name, figure(wall), "" if name == "Reelbook" else figure(wall / again["Reelbook"]))
            for name, wall in again.items()
        ],
    )
    if not options.quick:
        runs = [default_run() for _ in range(rounds)]
        wall, recorded, cells = (statistics.median(column) for column in zip(*runs, strict=True))
        report.table(
            "The default run",
            ["", "seconds", "of the cells ×"],
            [
                ("the cells, without those that import", figure(cells), ""),
                ("the run, as its record says", figure(recorded), figure(recorded / cells)),
                ("the command, with the pages", figure(wall), figure(wall / cells)),
            ],
        )
    if options.markdown:
        report.put_into(options.markdown)
    return 0


if __name__ == "__main__":
    sys.exit(main())
