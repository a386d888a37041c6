"""Making what comes next in another thread, while the present is worked on."""

from __future__ import annotations

import queue
import threading
from collections.abc import Iterable, Iterator
from typing import Any, TypeVar

Item = TypeVar("Item")


def made_ahead(items: Iterable[Item], depth: int) -> Iterator[Item]:
    """Yield items that another thread makes, up to ``depth`` of them waiting; its errors are raised here."""
    waiting: queue.Queue[tuple[str, Any]] = queue.Queue(depth)
    stopped = threading.Event()

    def put(kind: str, content: Any) -> None:
        while not stopped.is_set():
            try:
                waiting.put((kind, content), timeout=0.1)
                return
            except queue.Full:
                continue

    def make() -> None:
        try:
            for item in items:
                put("item", item)
                if stopped.is_set():
                    return
            put("end", None)
        except BaseException as error:
            put("error", error)

    thread = threading.Thread(target=make, name="reelbook-data", daemon=True)
    thread.start()
    try:
        while True:
            kind, content = waiting.get()
            if kind == "end":
                return
            if kind == "error":
                raise content
            yield content
            del content  # or it would be held while the next one is waited for
    finally:
        stopped.set()
        thread.join()
