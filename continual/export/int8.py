"""The backbone's weights in 8 bits: a smaller file, and faster on CPUs that have the instructions."""

from __future__ import annotations

import math
import re
import tempfile
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import onnx
from onnxruntime.quantization import QuantType, quantize_dynamic

from continual.errors import InputError
from continual.export.onnx_runner import Runner
from continual.export.tracing import quiet

#: where they are: in the backbone, or in one of several; whole, or as two factors
_LINEAR = re.compile(r"network\.network\.(\d+\.)?blocks\..*\.(qkv|proj|fc1|fc2)(\.(down|up))?")


def quantised(model: Any) -> Any:
    """Return an exported model whose frozen ViT's linear layers multiply in 8 bits (weights by output channel).

    Adapters, head, prototypes and class statistics stay as they are. What enters a layer is rounded by the largest
    value of the whole batch: an image's scores depend, a little, on the others. Raises InputError where there is
    no such layer.
    """
    linear = (node for node in _nodes(model.graph) if any(_is_linear(entry.value) for entry in node.metadata_props))
    names = [node.name for node in linear if node.op_type == "MatMul"]
    if not names:
        raise InputError("has no linear layer of a frozen ViT to be written in 8 bits")
    with tempfile.TemporaryDirectory() as folder:
        plain, small = Path(folder) / "plain.onnx", Path(folder) / "small.onnx"
        bare = onnx.ModelProto()
        bare.CopyFrom(model)
        # What the exporter noted of shapes inside does not always agree with what onnx infers, and need not be known.
        del bare.graph.value_info[:]
        _transpose_weights(bare.graph)
        onnx.save(bare, plain)
        options: dict[str, Any] = {"weight_type": QuantType.QInt8, "per_channel": True, "nodes_to_quantize": names}
        options["extra_options"] = {"EnableSubgraph": True, "MatMulConstBOnly": True}
        with quiet(None):
            quantize_dynamic(plain, small, op_types_to_quantize=["MatMul"], **options)
        made = onnx.load(small)
    done = sum(node.op_type == "MatMulInteger" for node in _nodes(made.graph))
    if done < (all_ := len(names)):
        raise InputError(f"has {all_} linear layers of a frozen backbone, of which {done} could be written in 8 bits")
    return made


def _transpose_weights(graph: Any) -> None:
    """Put transposed weights in the place of the nodes that transpose them.

    The exporter does so itself, but not for weights that are used more than once, for an image and its mirror image.
    """
    weights = {tensor.name: tensor for tensor in graph.initializer}
    for node in [node for node in graph.node if node.op_type == "Transpose" and node.input[0] in weights]:
        (order,) = [list(attribute.ints) for attribute in node.attribute if attribute.name == "perm"]
        values = onnx.numpy_helper.to_array(weights[node.input[0]])
        graph.initializer.append(onnx.numpy_helper.from_array(values.transpose(order).copy(), node.output[0]))
        graph.node.remove(node)
    used = {name for node in _nodes(graph) for name in node.input} | {value.name for value in graph.output}
    for name in weights.keys() - used:
        graph.initializer.remove(weights[name])


def _is_linear(scopes: str) -> bool:
    """Tell, by what the exporter wrote of a node's origin, whether it is a linear layer of the network's ViT."""
    return any(_LINEAR.fullmatch(place.strip(" []'")) for place in scopes.split(","))


def _nodes(graph: Any) -> Iterator[Any]:
    for node in graph.node:
        yield node
        for attribute in node.attribute:
            if attribute.type == onnx.AttributeProto.GRAPH:
                yield from _nodes(attribute.g)


def milliseconds(*runners: Runner, rounds: int = 15) -> list[float]:
    """Return each runner's median time for one image; they take turns, so that a busy machine is so for all."""
    shape = runners[0].shape
    image = np.linspace(-1, 1, math.prod(shape), dtype=np.float32).reshape(1, *shape)
    times: list[list[float]] = [[] for _ in runners]
    for turn in range(rounds + 2):
        for runner, own in zip(runners, times, strict=True):
            started = time.perf_counter()
            runner.run(image)
            if turn > 1:
                own.append(1000 * (time.perf_counter() - started))
    return [float(np.median(own)) for own in times]
