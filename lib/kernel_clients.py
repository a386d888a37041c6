"""How jupyter_client starts our kernels, and the client by which papermill talks to one started ahead."""

from __future__ import annotations

import asyncio
import sys
import time
from importlib.metadata import EntryPoint
from pathlib import Path
from queue import Empty
from typing import Any

from jupyter_client.asynchronous.client import AsyncKernelClient
from jupyter_client.connect import KernelConnectionInfo
from jupyter_client.manager import KernelManager
from jupyter_client.provisioning.factory import KernelProvisionerFactory
from jupyter_client.provisioning.local_provisioner import LocalProvisioner

from lib.forks import ForkServer

ASK_SECONDS = (
    0.25  # how long the kernel may take to be heard on the channel of outputs before it is asked again
)


class ReadyClient(AsyncKernelClient):
    """A client that is ready as soon as it hears the kernel.

    jupyter_client's own waits for 0.2 s of silence, in each stage: a kernel may say much while it starts.  Ours has
    answered before; what must be known is that its outputs arrive here, or those of the first cell would be lost.
    """

    async def wait_for_ready(self, timeout: float | None = None) -> None:
        """Ask the kernel until its answer is heard on the channel of outputs.

        Raises
        ------
        RuntimeError
            When the kernel has died, or is not heard in time.
        """
        until = time.monotonic() + (timeout if timeout is not None else float("inf"))
        while time.monotonic() < until:
            asked = self.kernel_info()
            if await self._is_heard(asked):
                await self._take_answer(asked)
                return
            if not await self.is_alive():
                raise RuntimeError("Kernel died before replying to kernel_info")
        raise RuntimeError(f"Kernel didn't respond in {timeout:.0f} seconds")

    async def _is_heard(self, asked: str) -> bool:
        """Wait a moment for the end of what was asked, and take what is heard before it."""
        end = time.monotonic() + ASK_SECONDS
        while (left := end - time.monotonic()) > 0:
            try:
                message: dict[str, Any] = await self.get_iopub_msg(timeout=left)
            except Empty:
                return False
            idle = message["content"].get("execution_state") == "idle"
            if idle and message["parent_header"].get("msg_id") == asked:
                return True
        return False

    async def _take_answer(self, asked: str) -> None:
        """Take the answers from the channel of requests, the last of which is that to ``asked``."""
        while True:
            try:
                message = await self.get_shell_msg(timeout=ASK_SECONDS)
            except Empty:
                return
            if message["parent_header"].get("msg_id") == asked:
                self._handle_kernel_info_reply(message)
                return
            await asyncio.sleep(0)


class ForkingProvisioner(LocalProvisioner):
    """Forks IPython kernels of our own Python from its manager's ``ForkServer``; starts all others as usual."""

    ENTRY_POINT = EntryPoint(
        "reelbook-forks", "lib.kernel_clients:ForkingProvisioner", "jupyter_client.kernel_provisioners"
    )

    async def launch_kernel(self, cmd: list[str], **kwargs: Any) -> KernelConnectionInfo:
        """Start a kernel's process."""
        forks: ForkServer | None = getattr(self.parent, "forks", None)
        if forks is None or cmd[1:3] != ["-m", "ipykernel_launcher"] or not _is_our_python(cmd[0]):
            return await super().launch_kernel(cmd, **kwargs)
        process: Any = forks.fork(cmd[3:], str(kwargs["cwd"]), kwargs["env"], kwargs["stderr"].name)
        self.process = process
        self.pid = self.pgid = process.pid  # each is in a group of its own
        self.cwd = kwargs["cwd"]
        return self.connection_info


class RememberingManager(KernelManager):
    """A manager that remembers its clients, and may have a ``ForkServer``.

    papermill awaits the client's answers: only an asynchronous one lets it notice a dead kernel, and of a manager
    that is handed over it does not close the client.
    """

    client_class = "lib.kernel_clients.ReadyClient"

    def __init__(self, forks: ForkServer | None = None, **options: Any) -> None:
        super().__init__(**options)
        self.forks = forks
        self.clients: list[Any] = []
        name = ForkingProvisioner.ENTRY_POINT.name
        KernelProvisionerFactory.instance().provisioners[name] = ForkingProvisioner.ENTRY_POINT
        spec = self.kernel_spec if forks is not None else None
        if spec is not None and "kernel_provisioner" not in spec.metadata:
            spec.metadata["kernel_provisioner"] = {"provisioner_name": name}

    def client(self, **options: Any) -> Any:
        """Return a new client, and remember it."""
        self.clients.append(super().client(**options))
        return self.clients[-1]


def _is_our_python(program: str) -> bool:
    return (
        Path(program).resolve() == Path(sys.executable).resolve()
        and Path(program).parent == Path(sys.executable).parent
    )
