"""Vectors of float32 numbers for the compiled loops: a type that numba keeps in the processor's registers.

Numba leaves it to LLVM to find what can be done on whole registers, and LLVM does not keep the sums of a loop
over memory in registers.  Here the kernels say it themselves: ``load`` takes some neighbouring numbers of a
table's row, ``+ - * /`` with other vectors or with numbers, ``sqrt`` and ``clip`` work on all of them, ``total``
adds them up in an order that does not depend on the processor, and ``store`` puts them back.

A vector may have any multiple of 8 lanes; LLVM cuts it into the registers that the processor has.
"""

from __future__ import annotations

import inspect
import operator
from collections.abc import Callable
from typing import Any

from llvmlite import ir
from numba.core import cgutils, types
from numba.core.datamodel import models
from numba.core.datamodel.registry import register_default
from numba.extending import intrinsic, overload

LANES = 8  # a vector has a multiple of this

_LINE = 64  # bytes of a cache line
_PIECES = (64, 32, 16, 8)  # what a vector is made of: powers of two, because LLVM is at its best with them
_FLOAT = ir.FloatType()
_INT32 = ir.IntType(32)
_INT64 = ir.IntType(64)
_BYTES = ir.IntType(8).as_pointer()
_FLAGS = ("contract", "nsz")  # a product and a sum may become one instruction; nothing is reordered


class Vector(types.Type):
    """Numba's type of a vector of ``lanes`` float32 numbers."""

    def __init__(self, lanes: int) -> None:
        assert lanes > 0
        assert lanes % LANES == 0
        self.lanes = lanes
        super().__init__(name=f"Vector({lanes})")

    @property
    def pieces(self) -> list[int]:
        """The lanes of each piece, the largest ones first."""
        whole, rest = divmod(self.lanes, _PIECES[0])
        return [_PIECES[0]] * whole + [piece for piece in _PIECES[1:] if rest & piece]


@register_default(Vector)
class _VectorModel(models.PrimitiveModel):
    """A vector is a structure of LLVM's vectors."""

    def __init__(self, manager: Any, kind: Vector) -> None:
        pieces = [ir.VectorType(_FLOAT, lanes) for lanes in kind.pieces]
        super().__init__(manager, kind, ir.LiteralStructType(pieces))


def _pack(builder: Any, pieces: list[Any]) -> Any:
    packed = ir.Constant(ir.LiteralStructType([piece.type for piece in pieces]), ir.Undefined)
    for place, piece in enumerate(pieces):
        packed = builder.insert_value(packed, piece, place)
    return packed


def _unpack(builder: Any, kind: Any, value: Any, like: Vector) -> list[Any]:
    """Return a vector's pieces, or a number repeated in all lanes."""
    if isinstance(kind, Vector):
        return [builder.extract_value(value, place) for place in range(len(kind.pieces))]
    return [_repeat(builder, value, lanes) for lanes in like.pieces]


def _repeat(builder: Any, number: Any, lanes: int) -> Any:
    nothing = ir.Constant(ir.VectorType(_FLOAT, lanes), ir.Undefined)
    first = builder.insert_element(nothing, number, _INT32(0))
    return builder.shuffle_vector(first, nothing, _lanes(0, lanes, step=0))


def _lanes(first: int, count: int, step: int = 1) -> ir.Constant:
    return ir.Constant(ir.VectorType(_INT32, count), [first + step * place for place in range(count)])


def _elementwise(emit: Callable[..., Any]) -> Callable[..., Any]:
    """Make a function of one or two vectors, or numbers, from what it does with one piece of each."""

    def type_of(kinds: tuple[Any, ...]) -> Any:
        like = next(kind for kind in kinds if isinstance(kind, Vector))
        signature = like(*(kind if isinstance(kind, Vector) else types.float32 for kind in kinds))

        def generate(context: Any, builder: Any, signature: Any, arguments: Any) -> Any:
            columns = [
                _unpack(builder, kind, value, like)
                for kind, value in zip(signature.args, arguments, strict=True)
            ]
            return _pack(builder, [emit(builder, *pieces) for pieces in zip(*columns, strict=True)])

        return signature, generate

    if len(inspect.signature(emit).parameters) == 2:
        return lambda typing_context, x: type_of((x,))
    return lambda typing_context, x, y: type_of((x, y))


def _emit_sqrt(builder: Any, x: Any) -> Any:
    kind = ir.FunctionType(x.type, [x.type])
    name = f"llvm.sqrt.v{x.type.count}f32"
    return builder.call(cgutils.get_or_insert_function(builder.module, kind, name), [x])


def _emit_clip(builder: Any, x: Any, bound: Any) -> Any:
    x = builder.select(builder.fcmp_ordered(">", x, bound), bound, x)
    lowest = builder.fneg(bound)
    return builder.select(builder.fcmp_ordered("<", x, lowest), lowest, x)


_vector_add: Any = intrinsic(_elementwise(lambda builder, x, y: builder.fadd(x, y, flags=_FLAGS)))
_vector_subtract: Any = intrinsic(_elementwise(lambda builder, x, y: builder.fsub(x, y, flags=_FLAGS)))
_vector_multiply: Any = intrinsic(_elementwise(lambda builder, x, y: builder.fmul(x, y, flags=_FLAGS)))
_vector_divide: Any = intrinsic(_elementwise(lambda builder, x, y: builder.fdiv(x, y, flags=_FLAGS)))


def _teach(operation: Any, function: Any) -> None:
    """Let an operator take vectors."""

    @overload(operation)
    def choose(x, y):  # type: ignore[no-untyped-def]
        if isinstance(x, Vector) or isinstance(y, Vector):
            return lambda x, y: function(x, y)
        return None


_teach(operator.add, _vector_add)
_teach(operator.sub, _vector_subtract)
_teach(operator.mul, _vector_multiply)
_teach(operator.truediv, _vector_divide)


#: ``sqrt(x)``: the square root of each lane.
sqrt: Any = intrinsic(_elementwise(_emit_sqrt))

#: ``clip(x, bound)``: each lane, but not beyond ``bound`` and ``-bound``; what is no number stays so.
clip: Any = intrinsic(_elementwise(_emit_clip))


def _zeros(typing_context: Any, lanes: Any) -> Any:
    kind = Vector(lanes.literal_value)

    def generate(context: Any, builder: Any, signature: Any, arguments: Any) -> Any:
        return _pack(builder, [ir.Constant(ir.VectorType(_FLOAT, n), [0.0] * n) for n in kind.pieces])

    return kind(lanes), generate


#: ``zeros(lanes)``: a vector of zeros; ``lanes`` is a constant.
zeros: Any = intrinsic(prefer_literal=True)(_zeros)


def _total(typing_context: Any, x: Any) -> Any:
    def generate(context: Any, builder: Any, signature: Any, arguments: Any) -> Any:
        result = _FLOAT(0.0)
        for place in range(len(signature.args[0].pieces)):
            piece = builder.extract_value(arguments[0], place)
            while (half := piece.type.count // 2) >= 1:
                low = builder.shuffle_vector(piece, piece, _lanes(0, half))
                high = builder.shuffle_vector(piece, piece, _lanes(half, half))
                piece = builder.fadd(low, high)
            result = builder.fadd(result, builder.extract_element(piece, _INT32(0)))
        return result

    return types.float32(x), generate


#: ``total(x)``: the sum of the lanes, halves added to halves.
total: Any = intrinsic(_total)


def _address(context: Any, builder: Any, kind: Any, array: Any, row: Any, column: Any) -> Any:
    """Return the address of an entry of a two-dimensional float32 array with contiguous rows."""
    view = context.make_array(kind)(context, builder, array)
    strides = cgutils.unpack_tuple(builder, view.strides, 2)
    offset = builder.add(builder.mul(row, strides[0]), builder.mul(column, _INT64(4)))
    return builder.gep(builder.bitcast(view.data, _BYTES), [offset])


def _piece_addresses(builder: Any, address: Any, kind: Vector) -> list[Any]:
    addresses, lanes_before = [], 0
    for lanes in kind.pieces:
        place = builder.gep(address, [_INT64(4 * lanes_before)])
        addresses.append(builder.bitcast(place, ir.VectorType(_FLOAT, lanes).as_pointer()))
        lanes_before += lanes
    return addresses


def _load(typing_context: Any, array: Any, row: Any, column: Any, lanes: Any) -> Any:
    kind = Vector(lanes.literal_value)

    def generate(context: Any, builder: Any, signature: Any, arguments: Any) -> Any:
        address = _address(context, builder, signature.args[0], *arguments[:3])
        return _pack(builder, [builder.load(a, align=4) for a in _piece_addresses(builder, address, kind)])

    return kind(array, types.int64, types.int64, lanes), generate


#: ``load(array, row, column, lanes)``: some neighbouring numbers of a row; ``lanes`` is a constant.
load: Any = intrinsic(prefer_literal=True)(_load)


def _store(typing_context: Any, array: Any, row: Any, column: Any, vector: Any) -> Any:
    def generate(context: Any, builder: Any, signature: Any, arguments: Any) -> Any:
        address = _address(context, builder, signature.args[0], *arguments[:3])
        for place, piece in enumerate(_piece_addresses(builder, address, signature.args[3])):
            builder.store(builder.extract_value(arguments[3], place), piece, align=4)
        return context.get_dummy_value()

    return types.void(array, types.int64, types.int64, vector), generate


#: ``store(array, row, column, vector)``: put a vector into a row.
store: Any = intrinsic(_store)


def _fetch(typing_context: Any, array: Any, row: Any, floats: Any, for_writing: Any) -> Any:
    length, intent = 4 * floats.literal_value, for_writing.literal_value

    def generate(context: Any, builder: Any, signature: Any, arguments: Any) -> Any:
        address = _address(context, builder, signature.args[0], arguments[0], arguments[1], _INT64(0))
        kind = ir.FunctionType(ir.VoidType(), [_BYTES, _INT32, _INT32, _INT32])
        function = cgutils.get_or_insert_function(builder.module, kind, "llvm.prefetch.p0")
        keep, data_cache = _INT32(3), _INT32(1)
        for offset in range(0, length, _LINE):
            place = builder.gep(address, [_INT64(offset)])
            builder.call(function, [place, _INT32(intent), keep, data_cache])
        return context.get_dummy_value()

    return types.void(array, types.int64, floats, for_writing), generate


#: ``fetch(array, row, floats, for_writing)``: ask the processor to bring a row's first numbers near.
#:
#: ``floats`` and ``for_writing`` (0 or 1) are constants; lines that several threads read must not be
#: fetched for writing, or their processors take them from each other.
fetch: Any = intrinsic(prefer_literal=True)(_fetch)
