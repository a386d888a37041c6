"""The network of a Factorization Machine as MXNet writes it: the member ``symbol.json`` of a model.

MXNet's ``Module.load`` builds the model from this graph and the parameters ``w0_weight``, ``w1_weight`` and
``v``.  The graph is that of MXNet's own factorization machine example: a sparse row ``data`` goes through
``data·w1_weight + w0_weight`` and ``½ Σ_f (data·v)² − ½ data²·Σ_f v²`` into an output named ``out``.
"""

from __future__ import annotations

import json
from typing import Any

from lib.fm.hyperparameters import DEFAULT_SCALE, Hyperparameters

HEADS = {"LinearRegressionOutput": "regressor", "LogisticRegressionOutput": "binary_classifier"}
LABEL = "out_label"

_MXNET_VERSION = 10901
_DENSE, _ROW_SPARSE, _CSR = "0", "1", "2"


def write(hyperparameters: Hyperparameters) -> str:
    """Return the graph of a model, as JSON text."""
    graph = _Graph()
    data = graph.add("null", "data", attrs={"__storage_type__": _CSR})
    h = hyperparameters
    weights = graph.add("null", "w1_weight", attrs=_variable(h, "linear", (h.feature_dim, 1), _ROW_SPARSE))
    linear = graph.add("dot", "dot0", data, weights)
    bias = graph.add("null", "w0_weight", attrs=_variable(h, "bias", (1,), _DENSE))
    linear = graph.add("broadcast_add", "broadcast_add0", linear, bias)
    factors = graph.add(
        "null", "v", attrs=_variable(h, "factors", (h.feature_dim, h.num_factors), _ROW_SPARSE)
    )
    sums = graph.add("dot", "dot1", data, factors)
    squared_sums = graph.add("square", "square0", sums)
    half = graph.add("_mul_scalar", "_mulscalar0", squared_sums, attrs={"scalar": "0.5"})
    both = graph.add("Concat", "concat0", linear, half, attrs={"dim": "1", "num_args": "2"})
    positive = graph.add("sum", "sum0", both, attrs={"axis": "1", "keepdims": "True"})
    squared_data = graph.add("square", "square1", data)
    squares = graph.add("_square_sum", "_square_sum0", factors, attrs={"axis": "1", "keepdims": "True"})
    own = graph.add("dot", "dot2", squared_data, squares)
    negative = graph.add("_mul_scalar", "_mulscalar1", own, attrs={"scalar": "-0.5"})
    output = graph.add("elemwise_add", "_plus0", positive, negative)
    label = graph.add("null", LABEL)
    head = next(op for op, predictor_type in HEADS.items() if predictor_type == h.predictor_type)
    graph.add(head, "out", output, label)
    return graph.json()


def predictor_type(text: str) -> str | None:
    """Return the kind of model that a graph describes, or None where its output says nothing of it."""
    graph = json.loads(text)
    return HEADS.get(graph["nodes"][graph["heads"][0][0]]["op"])


class _Graph:
    """A graph in the making; nodes are added in an order in which each comes after its inputs."""

    def __init__(self) -> None:
        self._nodes: list[dict[str, Any]] = []

    def add(self, op: str, name: str, *inputs: int, attrs: dict[str, str] | None = None) -> int:
        """Add a node and return its number."""
        node: dict[str, Any] = {"op": op, "name": name}
        if attrs:
            node["attrs"] = attrs
        node["inputs"] = [[number, 0, 0] for number in inputs]
        self._nodes.append(node)
        return len(self._nodes) - 1

    def json(self) -> str:
        """Return the graph, its last node being the output."""
        nodes = self._nodes
        graph = {
            "nodes": nodes,
            "arg_nodes": [number for number, node in enumerate(nodes) if node["op"] == "null"],
            "node_row_ptr": list(range(len(nodes) + 1)),
            "heads": [[len(nodes) - 1, 0, 0]],
            "attrs": {"mxnet_version": ["int", _MXNET_VERSION]},
        }
        return json.dumps(graph, indent=2)


def _variable(h: Hyperparameters, group: str, shape: tuple[int, ...], storage: str) -> dict[str, str]:
    """Return the attributes of a parameter of the graph: how it begins and how it learns."""
    method = getattr(h, f"{group}_init_method")
    if method == "normal":
        argument = {"sigma": getattr(h, f"{group}_init_sigma")}
    elif method == "uniform":
        scale = getattr(h, f"{group}_init_scale")
        argument = {"scale": DEFAULT_SCALE if scale is None else scale}
    else:
        argument = {"value": getattr(h, f"{group}_init_value")}
    return {
        "__init__": json.dumps([method, argument]),
        "__lr_mult__": str(getattr(h, f"{group}_lr")),
        "__shape__": str(shape),
        "__storage_type__": storage,
        "__wd_mult__": str(getattr(h, f"{group}_wd")),
    }
