"""Run both DAGs under Airflow's own processes, as a team would: scheduler, triggerer, LocalExecutor and PostgreSQL.

Everything is made in a temporary folder and listens on loopback alone: a PostgreSQL of its own (Debian's `postgresql`),
Airflow's API server, DAG processor, scheduler and triggerer, and a local AWS.  Then runs are started by the REST API
and by the schedule; one has a stage that fails, of another the worker is killed while it trains.  Prints a table.

    .venv/bin/python tests/deploy/run_airflow.py [--screenshots FOLDER]
"""

from __future__ import annotations

import argparse
import contextlib
import json
import os
import secrets
import shutil
import signal
import socket
import subprocess
import sys
import tempfile
import time
import urllib.error
import urllib.request
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

ROOT = Path(__file__).resolve().parents[2]
sys.path.insert(0, str(ROOT))

import psutil  # noqa: E402  the checkout is not installed

from benchmarks.support.environments import DEFERRABLE_AIRFLOW, programs_of  # noqa: E402
from lib import local  # noqa: E402
from lib.local.environment import environment as variables_of  # noqa: E402
from lib.stage_runs import run_id_from  # noqa: E402

PACKAGES = [
    *DEFERRABLE_AIRFLOW,
    "psycopg2-binary==2.9.11",
    "asyncpg==0.31.0",
]
SMALL = {"ratings": 20_000, "epochs": 20, "num_factors": 8}
POSTGRES = "postgres"  # the user that Debian's package makes: the server refuses to run as root


class Airflow:
    """Airflow's processes, and its REST API."""

    def __init__(self, folder: Path, server: local.Server) -> None:
        self.folder = folder
        self.programs = programs_of("airflow-postgresql", PACKAGES)
        self.port = free_port()
        self.outputs = folder / "outputs"
        kept = {name: value for name, value in os.environ.items() if not name.startswith(("AWS_", "AIRFLOW"))}
        connection = f"///airflow?host={folder / 'socket'}&user={POSTGRES}"
        self.variables = {
            **kept,
            **variables_of(server),
            "PYTHONWARNINGS": "ignore",
            "AIRFLOW_HOME": str(folder / "home"),
            "AIRFLOW__CORE__DAGS_FOLDER": str(ROOT / "deploy" / "airflow" / "dags"),
            "AIRFLOW__CORE__LOAD_EXAMPLES": "false",
            "AIRFLOW__CORE__EXECUTOR": "LocalExecutor",
            "AIRFLOW__CORE__PARALLELISM": "2",
            "AIRFLOW__CORE__SIMPLE_AUTH_MANAGER_ALL_ADMINS": "true",  # on loopback, for the length of this program
            "AIRFLOW__CORE__EXECUTION_API_SERVER_URL": f"http://127.0.0.1:{self.port}/execution/",
            "AIRFLOW__API_AUTH__JWT_SECRET": secrets.token_urlsafe(32),
            "AIRFLOW__API__SECRET_KEY": secrets.token_urlsafe(32),
            "AIRFLOW__CORE__FERNET_KEY": "",
            "AIRFLOW__DATABASE__SQL_ALCHEMY_CONN": f"postgresql+psycopg2:{connection}",
            "AIRFLOW__DATABASE__SQL_ALCHEMY_CONN_ASYNC": f"postgresql+asyncpg:{connection}",
            "AIRFLOW__SCHEDULER__TASK_INSTANCE_HEARTBEAT_TIMEOUT": "20",
            "AIRFLOW__SCHEDULER__TASK_INSTANCE_HEARTBEAT_TIMEOUT_DETECTION_INTERVAL": "5",
            "REELBOOK_HOME": str(ROOT),
            "REELBOOK_PYTHON": sys.executable,
            "REELBOOK_OUTPUTS": str(self.outputs),
            "REELBOOK_LOCAL_ROOT": str(server.root),
            "REELBOOK_AWS_CONN": "",
            "REELBOOK_CHECK_SECONDS": "2",
            "REELBOOK_RETRIES": "1",
            "REELBOOK_SCHEDULE": "0 3 * * *",
        }

    @contextlib.contextmanager
    def running(self) -> Iterator[None]:
        """Run all of it."""
        with contextlib.ExitStack() as stack:
            stack.enter_context(postgresql(self.folder))
            subprocess.run(
                [self.programs / "airflow", "db", "migrate"],
                env=self.variables,
                check=True,
                capture_output=True,
            )
            api = ["api-server", "--host", "127.0.0.1", "--port", str(self.port), "--workers", "1"]
            for part in (api, ["dag-processor"], ["scheduler"], ["triggerer"]):
                stack.enter_context(process([self.programs / "airflow", *part], self.variables, self.folder))
            wait_for(lambda: self.healthy(), 120, "Airflow to be healthy")
            wait_for(lambda: len(self.get("dags")["dags"]) == 2, 120, "the DAGs to be read")
            yield

    def healthy(self) -> bool:
        with contextlib.suppress(OSError):
            parts = self.get("monitor/health")
            return all(
                parts[name]["status"] == "healthy" for name in ("metadatabase", "scheduler", "triggerer")
            )
        return False

    def get(self, path: str) -> Any:
        return self.ask("GET", path)

    def ask(self, method: str, path: str, body: Any = None) -> Any:
        request = urllib.request.Request(
            f"http://127.0.0.1:{self.port}/api/v2/{path}",
            data=None if body is None else json.dumps(body).encode(),
            method=method,
            headers={"Content-Type": "application/json"},
        )
        opener = urllib.request.build_opener(urllib.request.ProxyHandler({}))
        with opener.open(request, timeout=30) as answer:
            return json.load(answer)

    def start(self, dag: str, parameters: dict[str, Any], **options: Any) -> str:
        """Start a run by the REST API and return its id."""
        self.ask("PATCH", f"dags/{dag}", {"is_paused": False})
        conf = {"parameters": parameters, **options}
        run: str = self.ask("POST", f"dags/{dag}/dagRuns", {"conf": conf, "logical_date": None})["dag_run_id"]
        return run

    def tasks(self, dag: str, run: str) -> dict[str, dict[str, Any]]:
        found = self.get(f"dags/{dag}/dagRuns/{urllib.request.quote(run)}/taskInstances")["task_instances"]
        return {task["task_id"]: task for task in found}

    def ended(self, dag: str, run: str, seconds: float = 300) -> str:
        """Wait for a run's end and return its state."""

        def state() -> str:
            found: str = self.get(f"dags/{dag}/dagRuns/{urllib.request.quote(run)}")["state"]
            return found if found in ("success", "failed") else ""

        return wait_for(state, seconds, f"{dag} {run} to end")


def by_api(airflow: Airflow) -> str:
    run = airflow.start("reelbook_stages", SMALL)
    assert airflow.ended("reelbook_stages", run) == "success"
    tasks = airflow.tasks("reelbook_stages", run)
    assert tasks["04_tune"]["state"] == "skipped"
    return f"{sum(task['state'] == 'success' for task in tasks.values())} tasks"


def deferred(airflow: Airflow) -> str:
    run = airflow.start("reelbook_jobs", SMALL, deploy=True)
    seen: set[str] = set()

    def over() -> bool:
        tasks = airflow.tasks("reelbook_jobs", run)
        seen.update(name for name, task in tasks.items() if task["state"] == "deferred")
        state = airflow.get(f"dags/reelbook_jobs/dagRuns/{urllib.request.quote(run)}")["state"]
        return state in ("success", "failed")

    wait_for(over, 400, "the jobs to end", every=0.3)
    assert airflow.ended("reelbook_jobs", run) == "success"
    assert "train" in seen, seen
    return f"waited in the triggerer: {', '.join(sorted(seen))}"


def failing(airflow: Airflow) -> str:
    run = airflow.start("reelbook_stages", {**SMALL, "side_features": ["no_such_column"]})
    assert airflow.ended("reelbook_stages", run) == "failed"
    tasks = airflow.tasks("reelbook_stages", run)
    assert tasks["08_clean_up"]["state"] == "success"
    failed = next(name for name, task in tasks.items() if task["state"] == "failed")
    assert tasks[failed]["try_number"] == 2
    return f"{failed} failed twice, 08_clean_up ran, the run failed"


def killed(airflow: Airflow) -> str:
    """Kill the process tree of a task while its job trains; its second attempt takes the job up."""
    run = airflow.start("reelbook_stages", {**SMALL, "epochs": 400})
    wait_for(lambda: airflow.tasks("reelbook_stages", run)["03_train"]["state"] == "running", 120, "03_train")
    folder = airflow.outputs / run_id_from(run)
    wait_for(lambda: b"epoch" in latest(folder / "03_train.ipynb"), 60, "the job to train", every=0.1)
    victims = []
    for found in psutil.process_iter(["cmdline"]):
        line = " ".join(found.info["cmdline"] or [])
        if "script.py" in line and "/tmp/venv-call" in line:
            victims += [found.parent(), found]
    for victim in filter(None, victims):
        with contextlib.suppress(psutil.NoSuchProcess):
            victim.send_signal(signal.SIGKILL)
    assert victims
    assert airflow.ended("reelbook_stages", run, 400) == "success"
    assert airflow.tasks("reelbook_stages", run)["03_train"]["try_number"] == 2
    import boto3

    jobs = boto3.client("sagemaker").list_training_jobs(NameContains=folder.name[:18])["TrainingJobSummaries"]
    mine = [job for job in jobs if job["TrainingJobName"].startswith(folder.name)]
    assert len(mine) == 1, mine
    return f"2 attempts, 1 training job: {mine[0]['TrainingJobName']}"


def scheduled(airflow: Airflow) -> str:
    """A DAG that is unpaused runs its last interval at once."""
    runs = airflow.get("dags/reelbook_stages/dagRuns?run_type=scheduled&limit=100")["dag_runs"]
    assert runs
    run = runs[0]["dag_run_id"]
    assert airflow.ended("reelbook_stages", run) == "success"
    return run


FLOWS: dict[str, Callable[[Airflow], str]] = {
    "stages, started by the REST API": by_api,
    "stages, by the schedule": scheduled,
    "jobs by deferrable operators": deferred,
    "a failing stage": failing,
    "a killed worker": killed,
}


def latest(path: Path) -> bytes:
    with contextlib.suppress(OSError):
        return path.read_bytes()
    return b""


def screenshots(airflow: Airflow, folder: Path) -> None:
    """Take pictures of the pages of the last runs."""
    from playwright.sync_api import sync_playwright

    folder.mkdir(parents=True, exist_ok=True)
    with sync_playwright() as playwright:
        browser = playwright.chromium.launch(executable_path=shutil.which("chromium"), args=["--no-sandbox"])
        page = browser.new_page(viewport={"width": 1500, "height": 1000})
        for dag in ("reelbook_stages", "reelbook_jobs"):
            runs = airflow.get(f"dags/{dag}/dagRuns?order_by=-run_after&limit=1")["dag_runs"]
            if not runs:
                continue
            page.goto(f"http://127.0.0.1:{airflow.port}/dags/{dag}/runs/{runs[0]['dag_run_id']}")
            for view in ("Graph", "Grid", "Gantt"):
                page.locator(f"[title^='Show {view}']").first.click()
                page.wait_for_timeout(4000)  # it is drawn bit by bit
                page.screenshot(path=folder / f"{dag}-{view.lower()}.png")
        browser.close()


@contextlib.contextmanager
def postgresql(folder: Path) -> Iterator[None]:
    """Run a PostgreSQL of one's own, on a socket in the folder."""
    programs = next(iter(sorted(Path("/usr/lib/postgresql").glob("*/bin"), reverse=True)), None)
    if programs is None:
        sys.exit("This needs PostgreSQL: apt-get install postgresql")
    data, place = folder / "data", folder / "socket"
    for path in (data, place):
        path.mkdir()
        shutil.chown(path, POSTGRES)
    as_postgres: dict[str, Any] = {"user": POSTGRES, "capture_output": True, "check": True}
    subprocess.run([programs / "initdb", "-D", data, "--auth=trust"], **as_postgres)
    options = f"-c listen_addresses= -c unix_socket_directories={place}"
    control = [programs / "pg_ctl", "-D", data, "-w"]
    subprocess.run(
        [*control, "-l", place / "log", "-o", options, "start"], **{**as_postgres, "capture_output": False}
    )
    try:
        subprocess.run([programs / "createdb", "-h", place, "airflow"], **as_postgres)
        yield
    finally:
        subprocess.run([*control, "-m", "immediate", "stop"], **as_postgres)


@contextlib.contextmanager
def process(command: list[Any], variables: dict[str, str], folder: Path) -> Iterator[None]:
    """Run a process, and end it with its children."""
    log = folder / f"{command[1]}.log"
    with log.open("w") as output:
        started = subprocess.Popen(
            command, env=variables, stdout=output, stderr=subprocess.STDOUT, start_new_session=True
        )
        try:
            yield
        finally:
            with contextlib.suppress(ProcessLookupError):
                os.killpg(started.pid, signal.SIGTERM)
            try:
                started.wait(20)
            except subprocess.TimeoutExpired:
                os.killpg(started.pid, signal.SIGKILL)


def wait_for(look: Callable[[], Any], seconds: float, what: str, every: float = 1.0) -> Any:
    """Look until something is there."""
    until = time.monotonic() + seconds
    while time.monotonic() < until:
        with contextlib.suppress(urllib.error.URLError, KeyError):
            if found := look():
                return found
        time.sleep(every)
    raise TimeoutError(f"waited {seconds:.0f} s for {what}")


def free_port() -> int:
    with socket.create_server(("127.0.0.1", 0)) as free:
        port: int = free.getsockname()[1]
        return port


def main() -> int:
    """Run the flows and print the table; 1 where one failed."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--screenshots", type=Path, metavar="FOLDER", help="where pictures of the pages go")
    parser.add_argument("--only", choices=FLOWS, help="one of the flows")
    options = parser.parse_args()
    folder = Path(tempfile.mkdtemp(prefix="airflow-", dir="/tmp"))
    folder.chmod(0o755)  # PostgreSQL's user has to get through
    server = local.start(folder / "aws")
    os.environ.update(variables_of(server))
    airflow, bad = Airflow(folder, server), 0
    try:
        with airflow.running():
            for name, flow in FLOWS.items():
                if options.only not in (None, name):
                    continue
                began = time.monotonic()
                try:
                    seen = flow(airflow)
                    print(f"| {name} | ok | {time.monotonic() - began:.0f} s | {seen} |", flush=True)
                except (AssertionError, TimeoutError) as error:
                    bad += 1
                    print(f"| {name} | failed | {time.monotonic() - began:.0f} s | {error!r} |", flush=True)
            if options.screenshots:
                screenshots(airflow, options.screenshots)
    finally:
        local.stop(server.root)
        if bad:
            print(f"The logs are in {folder}.", file=sys.stderr)
        else:
            shutil.rmtree(folder, ignore_errors=True)
    return int(bad > 0)


if __name__ == "__main__":
    sys.exit(main())
