"""Kernels that are forked: as good as started ones, never older than the files, never left behind."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import textwrap
import time
from collections.abc import Iterator
from pathlib import Path

import pytest

from lib.forks import SUPPORTED, ForkServer
from lib.kernels import Kernel, KernelPool
from lib.records import ROOT

pytestmark = pytest.mark.skipif(not SUPPORTED, reason="kernels are forked on Linux only")


@pytest.fixture
def pool(tmp_path: Path) -> Iterator[KernelPool]:
    with KernelPool(tmp_path) as kernels:
        yield kernels


def kernel(pool: KernelPool, name: str = "stage", imports: tuple[str, ...] = ()) -> Kernel:
    pool.order(name, "python3", imports)
    return pool.take(name).result(timeout=120)


def ask(kernel: Kernel, code: str) -> str:
    """Execute code in a kernel and return what it printed."""
    from jupyter_client.blocking.client import BlockingKernelClient

    client = BlockingKernelClient(connection_file=kernel.manager.connection_file)
    client.load_connection_file()
    client.start_channels()
    said: list[str] = []

    def hear(message: dict[str, object]) -> None:
        content = message["content"]
        assert isinstance(content, dict)
        if message["msg_type"] == "stream":
            said.append(content["text"])
        elif message["msg_type"] == "error":
            said.append("\n".join(content["traceback"]))

    try:
        client.wait_for_ready(timeout=60)
        client.execute_interactive(code, timeout=60, output_hook=hear)
    finally:
        client.stop_channels()
    return "".join(said).strip()


def ended(kernel: Kernel) -> str:
    until = time.monotonic() + 20
    while not kernel.death() and time.monotonic() < until:
        time.sleep(0.05)
    return kernel.death()


def lives(pid: int) -> bool:
    try:
        return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0] != "Z"
    except (FileNotFoundError, ProcessLookupError):
        return False


def gone(pid: int) -> bool:
    until = time.monotonic() + 20
    while lives(pid) and time.monotonic() < until:
        time.sleep(0.05)
    return not lives(pid)


def test_a_forked_kernel_is_like_a_started_one(tmp_path: Path) -> None:
    code = """
        import os, sys, signal
        print(os.getcwd(), sys.executable, sys.argv[0].rsplit(os.sep, 1)[-1].removesuffix(".py"), sys.path[0] == "")
        print(sorted(name for name in os.environ if not name.startswith("JPY_")))
        print(os.getpgrp() == os.getpid(), signal.getsignal(signal.SIGINT), signal.getsignal(signal.SIGCHLD))
        print(sorted(name for name in globals() if not name.startswith("_")), __name__, os.isatty(0))
        import matplotlib; print(matplotlib.get_backend().rsplit(".", 1)[-1])
    """
    answers = []
    for fork in (True, False):
        with KernelPool(tmp_path, fork=fork) as pool:
            answers.append(ask(kernel(pool), textwrap.dedent(code)))
    assert answers[0] == answers[1]
    assert str(tmp_path) in answers[0]


def test_the_heavy_imports_are_there_and_lib_is_not(pool: KernelPool) -> None:
    code = "import sys; print('pandas' in sys.modules, [name for name in sys.modules if name.split('.')[0] == 'lib'])"
    assert ask(kernel(pool), code) == "True []"


def test_a_kernel_imports_modules_as_their_files_are_now(pool: KernelPool, tmp_path: Path) -> None:
    module = tmp_path / "own_module.py"
    module.write_text("number = 1\n")
    assert (
        ask(kernel(pool, "a", ("import own_module",)), "import own_module; print(own_module.number)") == "1"
    )
    module.write_text("number = 22\n")
    assert (
        ask(kernel(pool, "b", ("import own_module",)), "import own_module; print(own_module.number)") == "22"
    )


def test_kernels_draw_different_random_numbers(pool: KernelPool) -> None:
    code = "import random, numpy, uuid; print(random.random(), numpy.random.rand(), uuid.uuid4())"
    draws = [ask(kernel(pool, name), code).split() for name in ("a", "b")]
    assert all(one != other for one, other in zip(*draws, strict=True))


def test_how_a_kernel_ended_is_known(pool: KernelPool) -> None:
    first, second = kernel(pool, "a"), kernel(pool, "b")
    os.kill(first.manager.provisioner.process.pid, signal.SIGSEGV)
    assert ended(first) == "SIGSEGV ended it"
    os.kill(second.manager.provisioner.process.pid, signal.SIGKILL)
    assert ended(second) == "SIGKILL ended it, often because memory ran out"


def test_exit_handlers_run_when_a_kernel_is_shut_down(pool: KernelPool, tmp_path: Path) -> None:
    one = kernel(pool)
    pid = one.manager.provisioner.process.pid
    ask(one, "import atexit, pathlib; atexit.register(pathlib.Path('left').touch); print('ok')")
    pool.end(one)
    assert gone(pid)
    assert (tmp_path / "left").exists()


def test_what_a_kernel_says_beside_its_cells_is_kept(pool: KernelPool) -> None:
    one = kernel(pool)
    ask(one, "import os; os.write(2, b'last words\\n')")
    os.kill(one.manager.provisioner.process.pid, signal.SIGKILL)
    assert ended(one)
    assert "last words" in one.last_words()


def test_a_kernel_of_another_program_is_started_as_usual(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    spec = tmp_path / "data" / "kernels" / "other"
    spec.mkdir(parents=True)
    wrapper = tmp_path / "other-python"
    wrapper.write_text(f'#!/bin/sh\nOTHER=yes exec "{sys.executable}" "$@"\n')
    wrapper.chmod(0o755)
    (spec / "kernel.json").write_text(
        f'{{"argv": ["{wrapper}", "-m", "ipykernel_launcher", "-f", "{{connection_file}}"],'
        ' "display_name": "Other", "language": "python"}'
    )
    monkeypatch.setenv("JUPYTER_PATH", str(tmp_path / "data"))
    with KernelPool(tmp_path) as pool:
        pool.order("stage", "other", ())
        assert ask(pool.take("stage").result(timeout=120), "import os; print(os.environ['OTHER'])") == "yes"


def test_nothing_is_left_when_the_pool_is_closed(tmp_path: Path) -> None:
    with KernelPool(tmp_path) as pool:
        pids = [kernel(pool, name).manager.provisioner.process.pid for name in ("a", "b")]
        assert pool._forks is not None
        pids.append(pool._forks._process.pid)
        assert all(map(lives, pids))
    assert all(map(gone, pids))


def test_kernels_end_with_the_process_that_forks_them(pool: KernelPool) -> None:
    one = kernel(pool)
    pid = one.manager.provisioner.process.pid
    assert pool._forks is not None
    pool._forks._process.kill()
    assert ended(one) == "SIGKILL ended it, often because memory ran out"
    assert gone(pid)


def test_all_end_when_the_runner_is_killed(tmp_path: Path) -> None:
    program = f"""
        import time
        from pathlib import Path
        from lib.kernels import KernelPool
        pool = KernelPool(Path({str(tmp_path)!r}))
        pool.order("stage", "python3", ())
        one = pool.take("stage").result(timeout=120)
        print(one.manager.provisioner.process.pid, pool._forks._process.pid, flush=True)
        time.sleep(600)
    """
    command = [sys.executable, "-c", textwrap.dedent(program)]
    with subprocess.Popen(command, cwd=ROOT, stdout=subprocess.PIPE, text=True) as runner:
        assert runner.stdout is not None
        pids = [int(pid) for pid in runner.stdout.readline().split()]
        assert len(pids) == 2
        assert all(map(lives, pids))
        runner.kill()
    assert all(map(gone, pids))


def test_a_server_that_does_not_answer_is_an_error(tmp_path: Path) -> None:
    server = ForkServer(tmp_path / "log", {"PYTHONHOME": str(tmp_path)})  # Python cannot start
    try:
        with pytest.raises(RuntimeError, match="does not answer"):
            server.fork(["-f", "none.json"], str(tmp_path), {}, str(tmp_path / "kernel.log"))
    finally:
        server.close()
