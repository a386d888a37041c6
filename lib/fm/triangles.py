"""Compiled linear algebra on small symmetric matrices: Gram matrices, Cholesky factors, triangular systems.

A matrix C is held by its upper triangle, by rows, in float32.  Its rows are padded to whole vectors
(`padded`), its number of rows to `TILE_ROWS`; what is below the diagonal or in the padding has no meaning.

Nearly all the work is in one step, `_add_products_16`: a tile of 4 × 16 numbers stays in the processor's registers
while the products of many rows are added to it.  It is written in LLVM's vector types, because compiled from
loops over runtime sizes the same sum ran at a tenth of the speed.
"""

from __future__ import annotations

from typing import Any

import numpy as np
from llvmlite import ir
from numba.core import cgutils, types
from numba.extending import intrinsic

from lib.compiled import compiled

VECTOR = 8  # numbers that rows are padded to
TILE_ROWS = 4

_FAST: dict[str, Any] = {"fastmath": {"reassoc", "contract", "nsz"}, "error_model": "numpy", "nogil": True}


@compiled(nogil=True)
def padded(count):  # type: ignore[no-untyped-def]
    """Return a count rounded up to whole vectors."""
    return (count + VECTOR - 1) // VECTOR * VECTOR


def _product_adder(columns: int) -> Any:
    """Make ``add_products(C, i, c, A, first, last, sign)`` for tiles of 4 rows and so many columns.

    Inside compiled functions it adds ``sign · Σ_r A[r, i : i + 4]ᵀ A[r, c : c + columns]``, r from ``first`` up to,
    not including, ``last``, to ``C[i : i + 4, c : c + columns]``.  C and A are float32 and contiguous, and may be
    the same matrix where the tile is not among the rows summed.
    """
    number = ir.FloatType()
    vector = ir.VectorType(number, columns)
    index = ir.IntType(64)
    contract = ("contract",)  # a product and a sum may be one instruction

    def add_products(typing_context, C, i, c, A, first, last, sign):  # type: ignore[no-untyped-def]
        def generate(context, builder, signature, arguments):  # type: ignore[no-untyped-def]
            matrices = {
                place: context.make_array(signature.args[place])(context, builder, arguments[place])
                for place in (0, 3)
            }
            _, tile_row, tile_column, _, first_row, last_row, factor = arguments

            def address(place, row, column, kind):  # type: ignore[no-untyped-def]
                strides = cgutils.unpack_tuple(builder, matrices[place].strides, 2)
                offset = builder.add(builder.mul(row, strides[0]), builder.mul(column, index(4)))
                start = builder.bitcast(matrices[place].data, ir.IntType(8).as_pointer())
                return builder.bitcast(builder.gep(start, [offset]), kind.as_pointer())

            def load_vector(pointer):  # type: ignore[no-untyped-def]
                loaded = builder.load(pointer)
                loaded.align = 4
                return loaded

            def repeated(value):  # type: ignore[no-untyped-def]
                one = builder.insert_element(ir.Constant(vector, ir.Undefined), value, ir.IntType(32)(0))
                everywhere = ir.Constant(ir.VectorType(ir.IntType(32), columns), None)
                return builder.shuffle_vector(one, ir.Constant(vector, ir.Undefined), everywhere)

            def add_product(a, b, total):  # type: ignore[no-untyped-def]
                return builder.fadd(total, builder.fmul(a, b, flags=contract), flags=contract)

            totals = [cgutils.alloca_once(builder, vector) for _ in range(TILE_ROWS)]
            for total in totals:
                builder.store(ir.Constant(vector, None), total)
            with cgutils.for_range_slice(builder, first_row, last_row, index(1), intp=index) as (row, _):
                right = load_vector(address(3, row, tile_column, vector))
                left = address(3, row, tile_row, number)
                for place, total in enumerate(totals):
                    one = builder.load(builder.gep(left, [index(place)]))
                    builder.store(add_product(repeated(one), right, builder.load(total)), total)
            for place, total in enumerate(totals):
                pointer = address(0, builder.add(tile_row, index(place)), tile_column, vector)
                changed = add_product(repeated(factor), builder.load(total), load_vector(pointer))
                builder.store(changed, pointer).align = 4
            return context.get_dummy_value()

        integer = types.int64
        return types.void(C, integer, integer, A, integer, integer, types.float32), generate

    return intrinsic(add_products)


_add_products_16: Any = _product_adder(16)
_add_products_8: Any = _product_adder(8)


@compiled(**_FAST)
def _add_row_products(C, i, A, first, last, sign):  # type: ignore[no-untyped-def]
    """Add to four rows of C, from row i and the diagonal on, the signed products of some rows of A."""
    width = C.shape[1]
    column = i // VECTOR * VECTOR
    while column + 16 <= width:
        _add_products_16(C, i, column, A, first, last, sign)
        column += 16
    if column < width:
        _add_products_8(C, i, column, A, first, last, sign)


@compiled(**_FAST)
def add_gram(A, rows, C, m):  # type: ignore[no-untyped-def]
    """Add ``AᵀA`` of A's first ``rows`` rows to the first m rows of C; both have the same padded width."""
    for i in range(0, m, TILE_ROWS):
        _add_row_products(C, i, A, 0, rows, np.float32(1))


@compiled(**_FAST)
def factorize(C, m):  # type: ignore[no-untyped-def]
    """Replace the first m rows of C, upper triangle, by R with ``C[:m, :m] = RᵀR``.

    Whatever stands right of the triangle is carried along: a column b becomes the solution of ``Rᵀ t = b``.
    """
    width = C.shape[1]
    for i in range(0, m, TILE_ROWS):
        _add_row_products(C, i, C, 0, i, np.float32(-1))
        start = i // VECTOR * VECTOR
        for row in range(i, min(i + TILE_ROWS, m)):
            for r in range(i, row):
                a = C[r, row]
                for c in range(start, width):
                    C[row, c] -= a * C[r, c]
            inverse = np.float32(1) / np.sqrt(C[row, row])
            for c in range(start, width):
                C[row, c] *= inverse


@compiled(**_FAST)
def solve(R, m, x):  # type: ignore[no-untyped-def]
    """Replace the first m numbers of x by the solution t of ``R t = x``, R an upper triangle."""
    for i in range(m - 1, -1, -1):
        t = x[i]
        for c in range(i + 1, m):
            t -= R[i, c] * x[c]
        x[i] = t / R[i, i]
