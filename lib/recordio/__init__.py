"""SageMaker's recordIO-protobuf: the codec between matrices and files.

A file is a chain of records, one a row, in the framing of MXNet's recordIO::

    magic 0xced7230a (u32, little endian) | length of the payload (u32) | payload | zeros up to 4 bytes

and a payload is a protobuf ``Record`` (``aialgs.data.Record`` of the SageMaker SDK)::

    Record  1 features: map<string, Value>   2 label: map<string, Value>   3 uid, 4 metadata, 5 configuration
    Value   one of 2 Float32Tensor, 3 Float64Tensor, 7 Int32Tensor, 9 Bytes
    Tensor  1 values, 2 keys (uint64), 3 shape (uint64), all repeated and packed

with the row in ``features["values"]`` and its label in ``label["values"]``.  A tensor with keys is sparse,
one without is dense.

What `write` writes is byte for byte what ``write_spmatrix_to_sparse_tensor`` and
``write_numpy_to_dense_tensor`` of SageMaker's SDK v2 wrote for float32 input.  Values and labels become
Float32Tensors whatever their dtype, as Factorization Machines takes no other; SDK v2 wrote float64 as
Float64Tensors and int64 as Int32Tensors.  `read` takes all three types, dense and sparse, with their
fields in any order.

Rows go through compiled loops, on several threads, a block at a time: memory is bounded.  What the loops do
not know is read by numpy, carefully.  Records are counted from 0, as rows are.
"""

from __future__ import annotations

from lib.recordio.arrow import write_arrow
from lib.recordio.frames import offsets, records, split
from lib.recordio.reader import iter_batches, read
from lib.recordio.writer import check, write

__all__ = ["check", "iter_batches", "offsets", "prepare", "read", "records", "split", "write", "write_arrow"]


def prepare() -> float | None:
    """Load the compiled loops now rather than when they are first needed.

    Returns
    -------
    float or None
        The seconds it took, if this was the first time ever and they had to be compiled.
    """
    from lib.recordio import kernels

    return kernels.prepare()
