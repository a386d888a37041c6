"""The client by which papermill talks to a kernel that has been started ahead."""

from __future__ import annotations

import asyncio
import time
from queue import Empty
from typing import Any

from jupyter_client.asynchronous.client import AsyncKernelClient

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
