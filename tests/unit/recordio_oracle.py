"""What judges the codec: bytes that SageMaker's SDK v2 wrote, protobuf's own classes, a free encoder."""

from __future__ import annotations

import io
import random
import struct

import numpy as np
import scipy.sparse as sp
from google.protobuf import descriptor_pb2, descriptor_pool, message_factory

from lib import recordio

MAGIC = b"\x0a\x23\xd7\xce"

# What write_spmatrix_to_sparse_tensor and write_numpy_to_dense_tensor of sagemaker 2.257.7 wrote.
SDK_FLOAT32 = {
    "sparse, labels": (
        "0a23d7ce330000000a1d0a0676616c756573121312110a080000c03f000000c0120201031a010412120a0676616c7565"
        "73120812060a0400004040000a23d7ce250000000a0f0a0676616c756573120512031a010412120a0676616c75657312"
        "0812060a04000000000000000a23d7ce330000000a1d0a0676616c756573121312110a08000040400000803e12020003"
        "1a010412120a0676616c756573120812060a040000c0bf00"
    ),
    "sparse": (
        "0a23d7ce1f0000000a1d0a0676616c756573121312110a080000c03f000000c0120201031a0104000a23d7ce11000000"
        "0a0f0a0676616c756573120512031a01040000000a23d7ce1f0000000a1d0a0676616c756573121312110a0800004040"
        "0000803e120200031a010400"
    ),
    "dense, labels": (
        "0a23d7ce340000000a1e0a0676616c756573121412120a10000000000000c03f00000000000000c012120a0676616c75"
        "6573120812060a04000040400a23d7ce340000000a1e0a0676616c756573121412120a10000000000000000000000000"
        "0000000012120a0676616c756573120812060a04000000000a23d7ce340000000a1e0a0676616c756573121412120a10"
        "0000404000000000000000000000803e12120a0676616c756573120812060a040000c0bf"
    ),
    "dense": (
        "0a23d7ce200000000a1e0a0676616c756573121412120a10000000000000c03f00000000000000c00a23d7ce20000000"
        "0a1e0a0676616c756573121412120a10000000000000000000000000000000000a23d7ce200000000a1e0a0676616c75"
        "6573121412120a100000404000000000000000000000803e"
    ),
    "big indices": (
        "0a23d7ce3e0000000a280a0676616c756573121e121c0a0c0000803f00000040000080401205007fe0a7121a0580eaad"
        "e90712120a0676616c756573120812060a040000a04000000a23d7ce360000000a200a0676616c756573121612140a04"
        "0000003f120580a8d6b9071a0580eaade90712120a0676616c756573120812060a04000080400000"
    ),
    "unsorted, a column twice, a stored zero": (
        "0a23d7ce240000000a220a0676616c756573121812160a0c0000803f000000000000404012030301011a0105"
    ),
    "lengths of two bytes": (
        "0a23d7cef50000000ade010a0676616c75657312d30112d0010aa0010000803f0000004000004040000080400000a040"
        "0000c0400000e04000000041000010410000204100003041000040410000504100006041000070410000804100008841"
        "00009041000098410000a0410000a8410000b0410000b8410000c0410000c8410000d0410000d8410000e0410000e841"
        "0000f0410000f84100000042000004420000084200000c4200001042000014420000184200001c420000204212280001"
        "02030405060708090a0b0c0d0e0f101112131415161718191a1b1c1d1e1f20212223242526271a012812120a0676616c"
        "756573120812060a040000803f000000"
    ),
}
SDK_OTHER_TYPES = {
    "float64 sparse": (
        "0a23d7ce3f0000000a250a0676616c756573121b1a190a10000000000000f83f00000000000000c0120201031a010412"
        "160a0676616c756573120c1a0a0a080000000000000840000a23d7ce290000000a0f0a0676616c75657312051a031a01"
        "0412160a0676616c756573120c1a0a0a0800000000000000000000000a23d7ce3f0000000a250a0676616c756573121b"
        "1a190a100000000000000840000000000000d03f120200031a010412160a0676616c756573120c1a0a0a080000000000"
        "00f8bf00"
    ),
    "float64 dense": (
        "0a23d7ce480000000a2e0a0676616c75657312241a220a200000000000000000000000000000f83f0000000000000000"
        "00000000000000c012160a0676616c756573120c1a0a0a0800000000000008400a23d7ce480000000a2e0a0676616c75"
        "657312241a220a20000000000000000000000000000000000000000000000000000000000000000012160a0676616c75"
        "6573120c1a0a0a0800000000000000000a23d7ce480000000a2e0a0676616c75657312241a220a200000000000000840"
        "00000000000000000000000000000000000000000000d03f12160a0676616c756573120c1a0a0a08000000000000f8bf"
    ),
    "int64 sparse": (
        "0a23d7ce280000000a150a0676616c756573120b3a090a01071201011a0103120f0a0676616c75657312053a030a0105"
        "0a23d7ce400000000a240a0676616c756573121a3a180a0ffdffffffffffffffff01ffffffff07120200021a01031218"
        "0a0676616c756573120e3a0c0a0afcffffffffffffffff01"
    ),
    "int64 dense": (
        "0a23d7ce230000000a100a0676616c75657312063a040a020007120f0a0676616c75657312053a030a0105000a23d7ce"
        "350000000a190a0676616c756573120f3a0d0a0bfdffffffffffffffff010112180a0676616c756573120e3a0c0a0afc"
        "ffffffffffffffff01000000"
    ),
}


def framed(payload: bytes) -> bytes:
    return MAGIC + struct.pack("<I", len(payload)) + payload + bytes(-len(payload) % 4)


# --- protobuf's own classes, as an independent judge ---------------------------------------------------


def _record_class() -> type:
    file = descriptor_pb2.FileDescriptorProto(name="record.proto", package="test", syntax="proto2")
    field = descriptor_pb2.FieldDescriptorProto

    def add(message: object, name: str, number: int, kind: int, *, many: bool = True, of: str = "") -> object:
        label = field.LABEL_REPEATED if many else field.LABEL_OPTIONAL
        added = message.field.add(name=name, number=number, type=kind, label=label)
        if of:
            added.type_name = of
        if many and kind not in (field.TYPE_MESSAGE, field.TYPE_BYTES):
            added.options.packed = True
        return added

    kinds = {"Float32": field.TYPE_FLOAT, "Float64": field.TYPE_DOUBLE, "Int32": field.TYPE_INT32}
    for name, kind in kinds.items():
        tensor = file.message_type.add(name=f"{name}Tensor")
        add(tensor, "values", 1, kind)
        add(tensor, "keys", 2, field.TYPE_UINT64)
        add(tensor, "shape", 3, field.TYPE_UINT64)
    add(file.message_type.add(name="Bytes"), "value", 1, field.TYPE_BYTES)

    value = file.message_type.add(name="Value")
    value.oneof_decl.add(name="value")
    for name, number in (("Float32Tensor", 2), ("Float64Tensor", 3), ("Int32Tensor", 7), ("Bytes", 9)):
        lower = name.lower().replace("tensor", "_tensor")
        add(value, lower, number, field.TYPE_MESSAGE, many=False, of=f".test.{name}").oneof_index = 0

    record = file.message_type.add(name="Record")
    for name, number in (("features", 1), ("label", 2)):
        entry = record.nested_type.add(name=f"{name.capitalize()}Entry")
        entry.options.map_entry = True
        add(entry, "key", 1, field.TYPE_STRING, many=False)
        add(entry, "value", 2, field.TYPE_MESSAGE, many=False, of=".test.Value")
        add(record, name, number, field.TYPE_MESSAGE, of=f".test.Record.{entry.name}")
    for name, number in (("uid", 3), ("metadata", 4), ("configuration", 5)):
        add(record, name, number, field.TYPE_STRING, many=False)

    pool = descriptor_pool.DescriptorPool()
    pool.Add(file)
    return message_factory.GetMessageClass(pool.FindMessageTypeByName("test.Record"))


Record = _record_class()


def protobuf_written(X: sp.csr_matrix | np.ndarray, y: np.ndarray | None = None) -> bytes:
    """Write as SDK v2 does: one protobuf object a row."""
    data = b""
    for row in range(X.shape[0]):
        record = Record()
        tensor = record.features["values"].float32_tensor
        if sp.issparse(X):
            entries = slice(X.indptr[row], X.indptr[row + 1])
            tensor.values.extend(X.data[entries])
            tensor.keys.extend(X.indices[entries])
            tensor.shape.append(X.shape[1])
        else:
            tensor.values.extend(X[row])
        if y is not None:
            record.label["values"].float32_tensor.values.append(y[row])
        data += framed(record.SerializeToString())
    return data


# --- an encoder that may put fields in any order -------------------------------------------------------


def varint(value: int) -> bytes:
    value &= (1 << 64) - 1
    encoded = b""
    while value > 0x7F:
        encoded += bytes([value & 0x7F | 0x80])
        value >>= 7
    return encoded + bytes([value])


def field(number: int, content: bytes) -> bytes:
    return varint(number << 3 | 2) + varint(len(content)) + content


def entry(number: int, value: bytes, name: bytes = b"values") -> bytes:
    return field(number, field(1, name) + field(2, value))


UNKNOWN_FIELDS = [
    varint(20 << 3) + varint(1 << 63),
    varint(21 << 3 | 1) + bytes(8),
    varint(22 << 3 | 5) + bytes(4),
    field(2000, b"\x0a\x06values"),
]


def shuffled_record(
    chance: random.Random, kind: str, values: list[float], keys: list[int] | None, columns: int, label: float
) -> bytes:
    """Encode a record with fields shuffled, some unpacked or in two pieces, and unknown ones between."""

    def shuffled(*fields: bytes) -> bytes:
        extra = chance.sample(UNKNOWN_FIELDS, chance.randint(0, 2))
        order = [*fields, *extra]
        chance.shuffle(order)
        return b"".join(order)

    number = {"f": 2, "d": 3, "i": 7}[kind]
    wire_type = {"f": 5, "d": 1, "i": 0}[kind]

    def number_bytes(value: float) -> bytes:
        return varint(int(value)) if kind == "i" else struct.pack("<" + kind, value)

    def tensor(values: list[float], keys: list[int] | None, shape: list[int]) -> bytes:
        parts = []
        style = chance.choice(["packed", "pieces", "unpacked"])
        lists = [(1, wire_type, [number_bytes(value) for value in values])]
        lists += [(2, 0, [varint(key) for key in keys or []]), (3, 0, [varint(size) for size in shape])]
        for place, unpacked_type, items in lists:
            if style == "unpacked":
                parts.append(b"".join(varint(place << 3 | unpacked_type) + item for item in items))
            elif style == "pieces":
                cut = len(items) // 2
                parts.append(field(place, b"".join(items[:cut])) + field(place, b"".join(items[cut:])))
            else:
                parts.append(field(place, b"".join(items)))
        return shuffled(*parts)

    def map_entry(place: int, content: bytes) -> bytes:
        return field(place, shuffled(field(1, b"values"), field(2, shuffled(field(number, content)))))

    return shuffled(
        map_entry(1, tensor(values, keys, [columns] if keys is not None else [])),
        map_entry(2, tensor([label], None, [])),
        field(3, b"uid"),
        field(5, b"{}"),
    )


# --- short ways to say things --------------------------------------------------------------------------

ROWS = np.array([[0, 1.5, 0, -2], [0, 0, 0, 0], [3, 0, 0, 0.25]], np.float32)
LABELS = np.array([3, 0, -1.5], np.float32)


def csr(data: list[float], indices: list[int], indptr: list[int], columns: int) -> sp.csr_matrix:
    arrays = (np.array(data, np.float32), np.array(indices), np.array(indptr))
    return sp.csr_matrix(arrays, shape=(len(indptr) - 1, columns))


def written(X: object, y: object = None) -> bytes:
    file = io.BytesIO()
    recordio.write(file, X, y)
    return file.getvalue()


def read(data: bytes, feature_dim: int | None = None) -> tuple[sp.csr_matrix, np.ndarray | None]:
    return recordio.read(io.BytesIO(data), feature_dim)
