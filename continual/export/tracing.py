"""From a PyTorch module to an ONNX graph: the one place that knows torch's exporter."""

from __future__ import annotations

import contextlib
import io
import logging
import warnings
from collections.abc import Callable, Iterator
from typing import Any

import onnx
import torch
from onnxscript import opset20 as op
from torch import Tensor, nn

from continual.errors import InputError

CHATTY = ("torch", "torch.__trace", "onnxscript", "onnx_ir")  #: loggers


class _Call(nn.Module):
    """A function as a module; the exporter keeps the parameters of `network`, which it may use, as weights."""

    def __init__(self, function: Callable[..., Any], network: nn.Module) -> None:
        super().__init__()
        self.function, self.network = function, network

    def forward(self, *inputs: Tensor) -> Any:
        return self.function(*inputs)


def traced(
    function: Callable[..., Any], inputs: list[Tensor], names: list[str], outputs: list[str], network: nn.Module
) -> Any:
    """Return an ONNX model of a function whose inputs and outputs all have a batch axis first, of any length.

    `inputs` are examples with a batch of two or more. Raises InputError if it cannot be traced: its steps depend
    on what the images hold, say.
    """
    batch = torch.export.Dim("batch", min=1)
    unspoken = io.StringIO()  # the exporter prints what it does, also when asked not to
    with torch.no_grad(), warnings.catch_warnings(), contextlib.redirect_stdout(unspoken), quiet(*CHATTY):
        warnings.simplefilter("ignore")
        try:
            program = torch.onnx.export(
                _Call(function, network),
                tuple(inputs),
                input_names=names,
                output_names=outputs,
                dynamic_shapes=(tuple({0: batch} for _ in inputs),),
                dynamo=True,
                verbose=False,
                custom_translation_table=TRANSLATED,
            )
        except Exception as error:  # the exporter has many of its own
            said = str(error).strip().splitlines() or [type(error).__name__]
            raise InputError(f"cannot be written as an ONNX graph ({type(error).__name__}: {said[0]})") from error
    assert program is not None
    # A step may be called as an output is, `stack` say; in the file the two would be one.
    graph, named = program.model.graph, {*outputs}
    for value in (value for node in graph for value in node.outputs if value.name in named):
        if all(value is not output for output in graph.outputs):
            value.name = f"{value.name} within"
    model = program.model_proto
    if any(value.type.tensor_type.shape.dim[0].HasField("dim_value") for value in model.graph.input):
        raise InputError("cannot be written as an ONNX graph: its steps depend on the number of images (`len`, say)")
    return model


def _cdist(a: Any, b: Any, p: float = 2.0, compute_mode: int | None = None) -> Any:
    """Euclidean distances (B, C) from differences, as `donot_use_mm_for_euclid_dist` takes them."""
    difference = op.Sub(op.Unsqueeze(a, op.Constant(value_ints=[-2])), op.Unsqueeze(b, op.Constant(value_ints=[-3])))
    return op.Sqrt(op.ReduceSumSquare(difference, op.Constant(value_ints=[-1]), keepdims=0))


def _searchsorted(levels: Any, values: Any, **_: Any) -> Any:
    """How many of the levels (L,), ascending, are below each value (B,)."""
    below = op.Less(levels, op.Unsqueeze(values, op.Constant(value_ints=[-1])))
    return op.ReduceSum(op.Cast(below, to=onnx.TensorProto.INT64), op.Constant(value_ints=[-1]), keepdims=0)


_aten = torch.ops.aten
#: what the exporter writes otherwise, or not at all
TRANSLATED: dict[Any, Any] = {_aten._cdist_forward.default: _cdist, _aten.searchsorted.Tensor: _searchsorted}


@contextlib.contextmanager
def quiet(*names: str | None) -> Iterator[None]:
    """Let loggers of these names, None for the one of all, say errors alone in the block."""
    loggers = [logging.getLogger(name) for name in names]
    before = [logger.level for logger in loggers]
    for logger in loggers:
        logger.setLevel(logging.ERROR)
    try:
        yield
    finally:
        for logger, level in zip(loggers, before, strict=True):
            logger.setLevel(level)
