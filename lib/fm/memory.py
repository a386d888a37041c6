"""How much memory there is, and whether a training may begin with it."""

from __future__ import annotations

import os
import re
import resource
from pathlib import Path

from lib.errors import ModelError, ParameterError

BUDGET_VARIABLE = "REELBOOK_FM_MEMORY_BYTES"

_SHARE = 0.5  # of the memory available, for data kept between epochs
_CGROUPS = Path("/sys/fs/cgroup")


def available() -> int | None:
    """Return the bytes that this process can still take: of the machine, its control group and its own limit.

    None where the system does not say.
    """
    found = [_of_the_machine(), _of_the_process(), *_of_the_control_groups()]
    known = [size for size in found if size is not None]
    return max(0, min(known)) if known else None


def _of_the_machine() -> int | None:
    try:
        text = Path("/proc/meminfo").read_text(encoding="ascii")
    except OSError:
        try:
            return os.sysconf("SC_PHYS_PAGES") * os.sysconf("SC_PAGE_SIZE")
        except (AttributeError, OSError, ValueError):
            return None
    found = re.search(r"^MemAvailable:\s+(\d+) kB", text, re.MULTILINE)
    return int(found[1]) * 1024 if found else None


def _of_the_process() -> int | None:
    """Return what is left of the process's address space, where it is limited (``ulimit -v``)."""
    limit, _ = resource.getrlimit(resource.RLIMIT_AS)
    if limit == resource.RLIM_INFINITY:
        return None
    try:
        pages = int(Path("/proc/self/statm").read_text(encoding="ascii").split()[0])
    except OSError:
        return limit
    return limit - pages * resource.getpagesize()


def _of_the_control_groups() -> list[int]:
    """Return what is left in each limited group, this process's own and those around it (cgroup v2 and v1)."""
    left = []
    for folder in _own_groups():
        for limit_name, usage_name in (
            ("memory.max", "memory.current"),
            ("memory.limit_in_bytes", "memory.usage_in_bytes"),
        ):
            limit, usage = _number(folder / limit_name), _number(folder / usage_name)
            if limit is not None and usage is not None:
                left.append(limit - usage + _reclaimable(folder))
    return left


def _own_groups() -> list[Path]:
    folders = [_CGROUPS, _CGROUPS / "memory"]
    try:
        lines = Path("/proc/self/cgroup").read_text(encoding="utf-8").splitlines()
    except OSError:
        return folders
    for line in lines:
        _, controllers, path = line.split(":", 2)
        root = _CGROUPS / "memory" if "memory" in controllers else _CGROUPS
        own = root / path.lstrip("/")
        folders += [own, *(parent for parent in own.parents if parent.is_relative_to(root))]
    return list(dict.fromkeys(folders))


def _number(path: Path) -> int | None:
    try:
        return int(path.read_text(encoding="ascii"))
    except (OSError, ValueError):  # not there, or "max"
        return None


def _reclaimable(folder: Path) -> int:
    """Return the bytes of file pages that the system would give up."""
    try:
        text = (folder / "memory.stat").read_text(encoding="ascii")
    except OSError:
        return 0
    found = re.search(r"^(?:total_)?inactive_file (\d+)", text, re.MULTILINE)
    return int(found[1]) if found else 0


def budget(given: int | None = None) -> int:
    """Return how many bytes of data a training may keep in memory between epochs.

    Parameters
    ----------
    given : int, optional
        As asked for; by default the environment variable REELBOOK_FM_MEMORY_BYTES, or half of the memory
        that is available.

    Raises
    ------
    ParameterError
        Less than 0, or no whole number.
    """
    asked = os.environ.get(BUDGET_VARIABLE, "").strip() if given is None else str(given)
    if not asked:
        there = available()
        return 1 << 62 if there is None else int(_SHARE * there)
    if not asked.isdecimal():
        raise ParameterError(
            f"The memory for data ({BUDGET_VARIABLE}) is a whole number of bytes, not {asked!r}."
        )
    return int(asked)


def require(needed: int, feature_dim: int, num_factors: int) -> None:
    """Refuse a model whose parameters and moments, ``needed`` bytes, are more than is available.

    Raises
    ------
    ModelError
    """
    there = available()
    if there is not None and needed > there:
        raise ModelError(
            f"feature_dim {feature_dim:,} with num_factors {num_factors} needs {size(needed)} of memory, "
            f"{size(there)} are available.",
            hint="Lower num_factors, or leave out features that never occur.",
        )


def size(count: int) -> str:
    """Return a number of bytes for people, such as ``1.6 TB``."""
    number = float(count)
    units = ["bytes", "kB", "MB", "GB", "TB", "PB"]
    while number >= 999.5 and len(units) > 1:
        number /= 1000
        units.pop(0)
    return f"{number:.3g} {units[0]}"
