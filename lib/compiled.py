"""What the modules with compiled loops share: numba's decorator, kept on disk, and a prefetch instruction.

Numba throws kept machine code away when the file of the function changes, not when another file does whose
functions and constants are compiled into it: `compiled` is told these.
"""

from __future__ import annotations

import contextlib
from collections.abc import Sequence
from pathlib import Path
from types import ModuleType
from typing import Any

import numba
from llvmlite import ir
from numba.core import cgutils, types
from numba.extending import intrinsic


def compiled(*, inlines: Sequence[ModuleType] = (), **options: Any) -> Any:
    """Decorate a function that numba compiles and keeps on disk, where there is a place to keep it.

    Parameters
    ----------
    inlines : sequence of module
        Modules whose functions or constants become part of the machine code; beside this one.
    **options
        Of ``numba.njit``.
    """

    def decorate(function: Any) -> Any:
        try:
            dispatcher = numba.njit(cache=True, **options)(function)
            _discard_stale(dispatcher, inlines)
            return dispatcher
        except RuntimeError:  # neither this folder nor the user's cache folder can be written to
            return numba.njit(**options)(function)

    return decorate


def _discard_stale(dispatcher: Any, inlines: Sequence[ModuleType]) -> None:
    """Remove the indexes of kept machine code that are older than a file which is compiled into it."""
    files = [__file__, *(str(module.__file__) for module in inlines)]
    if not all(Path(file).is_file() for file in files):
        return  # they came in a zip, as on a Spark cluster, and do not change
    changed = max(Path(file).stat().st_mtime_ns for file in files)
    name = dispatcher.py_func.__qualname__.replace("<locals>", "*")
    module = dispatcher.py_func.__module__.rpartition(".")[2]
    for index in Path(dispatcher.stats.cache_path).glob(f"{module}.{name}-*.nbi"):
        with contextlib.suppress(OSError):
            if index.stat().st_mtime_ns < changed:
                index.unlink()


def compilations(*functions: Any) -> int:
    """Count how often functions were compiled, rather than loaded from disk, in this process."""
    return sum(sum(function.stats.cache_misses.values()) for function in functions)


def _generate_prefetch(typing_context: Any, table: Any, row: Any, byte_offset: Any) -> Any:
    def generate(context: Any, builder: Any, signature: Any, arguments: Any) -> Any:
        array = context.make_array(signature.args[0])(context, builder, arguments[0])
        strides = cgutils.unpack_tuple(builder, array.strides, 2)
        byte = ir.IntType(8).as_pointer()
        flag = ir.IntType(32)
        offset = builder.add(builder.mul(arguments[1], strides[0]), arguments[2])
        address = builder.gep(builder.bitcast(array.data, byte), [offset])
        kind = ir.FunctionType(ir.VoidType(), [byte, flag, flag, flag])
        function = cgutils.get_or_insert_function(builder.module, kind, "llvm.prefetch.p0")
        for_writing, keep, data_cache = flag(1), flag(3), flag(1)
        builder.call(function, [address, for_writing, keep, data_cache])
        return context.get_dummy_value()

    return types.void(table, types.int64, types.int64), generate


#: ``prefetch(table, row, byte_offset)``, inside compiled functions: ask the processor to bring a byte of a
#: two-dimensional array's row into its cache (LLVM's ``llvm.prefetch``).
prefetch: Any = intrinsic(_generate_prefetch)
