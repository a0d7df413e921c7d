"""Self-refined retrieval as an ONNX `Loop`: the rounds of `continual.methods.mos.retrieval.refine`, inside the graph.

The ViT stands once in the graph, in the loop's body. Its first turn runs every image under the first stack and asks
the prototypes; each later one runs the images that have asked for another stack, and nothing else. The loop ends when
none does.
"""

from __future__ import annotations

import hashlib
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
import onnx
from onnx import TensorProto, helper, numpy_helper

#: results the loop carries from turn to turn, a row an image: columns, or None for one whole number
CARRIED = {"logits": "C", "similarity": "C", "features": "D", "stack": None, "first_stack": None, "evaluations": None}


class Nodes:
    """Nodes in the making, with the tensors they share."""

    def __init__(self, tensors: dict[str, Any] | None = None) -> None:
        self.made: list[Any] = []
        self.tensors: dict[str, Any] = {} if tensors is None else tensors

    def add(self, kind: str, inputs: Sequence[str], *outputs: str, **attributes: Any) -> str:
        """Add a node; return the name of its first output."""
        self.made.append(helper.make_node(kind, list(inputs), list(outputs), **attributes))
        return outputs[0]

    def constant(self, value: Any) -> str:
        """Return the name of a constant."""
        array = np.array(value)
        name = f"constant {array.dtype} {array.tolist()}"
        self.tensors[name] = numpy_helper.from_array(array, name)
        return name

    def place(self, part: Any, prefix: str, names: Mapping[str, str]) -> None:
        """Add the nodes of a traced part, its inputs and outputs called by `names`, all else by a prefix.

        Of weights that parts share, one copy is kept.
        """
        called = {**names, "": ""}
        for tensor in part.graph.initializer:
            kept = onnx.TensorProto()
            kept.CopyFrom(tensor)
            kept.name = ""
            content = hashlib.sha256(kept.SerializeToString(deterministic=True)).hexdigest()
            kept.name = called[tensor.name] = f"weights {content}"
            self.tensors.setdefault(kept.name, kept)
        for node in part.graph.node:
            kept = onnx.NodeProto()
            kept.CopyFrom(node)
            kept.name = prefix + node.name
            kept.input[:] = [called.setdefault(name, prefix + name) for name in node.input]
            kept.output[:] = [called.setdefault(name, prefix + name) for name in node.output]
            self.made.append(kept)


def looped(
    *,
    start: Any,
    step: Any,
    stage_one: Any,
    finish: Any,
    outputs: Sequence[str],
    sizes: Mapping[str, int],
    rounds: int,
    averaged: bool = False,
) -> Any:
    """Join four traced parts into one model with retrieval inside.

    `start`: images -> tokens and others, a row an image. `step`: the own rows (M, ...) of each, wanted (M,) ->
    new_features (M, D), answer (M, C), asked (M,). `stage_one`: new_features -> cosines (B, C), choice (B,).
    `finish`: logits, similarity, features -> `outputs`. `sizes` says C and D.

    If scores are `averaged` over views, rows are views, an image's one after the other; `finish` joins them, and which
    stack each had is not said.
    """
    main = Nodes()
    rows_of = [output.name for output in start.graph.output]
    main.place(start, "start/", {name: name for name in ("images", *rows_of)})
    rows = main.add("Shape", ["tokens"], "rows", start=0, end=1)
    main.add("Range", [main.constant(0), main.add("Squeeze", [rows], "batch"), main.constant(1)], "moving before")
    main.add("ConstantOfShape", [rows], "wanted before", value=numpy_helper.from_array(np.zeros(1, np.int64)))
    for name, columns in CARRIED.items():
        shape, zero = rows, np.zeros(1, np.float32 if columns else np.int64)
        if columns:
            shape = main.add("Concat", [rows, main.constant([sizes[columns]])], f"{name} shape", axis=0)
        main.add("ConstantOfShape", [shape], f"{name} before", value=numpy_helper.from_array(zero))
    names = ["moving", "wanted", *CARRIED]
    # One turn more than rounds: the first is none where the prototypes name another stack.
    turns = [main.constant(rounds + 1), main.constant(True)]
    body = _body(main.tensors, rows_of, step, stage_one, rounds)
    main.add("Loop", [*turns, *(f"{n} before" for n in names)], *names, body=body)
    called = {name: name for name in ("logits", "similarity", "features", *outputs)}
    main.place(finish, "finish/", called)
    results = []
    if not averaged:
        main.add("Sub", ["evaluations", main.constant(1)], "refinements")
        whole = helper.make_tensor_type_proto(TensorProto.INT64, ["batch"])
        results = [helper.make_value_info(name, whole) for name in ("stack", "first_stack", "refinements")]
    ends, tensors = [*finish.graph.output, *results], list(main.tensors.values())
    graph = helper.make_graph(main.made, "self-refined retrieval", [start.graph.input[0]], ends, tensors)
    return helper.make_model(graph, opset_imports=start.opset_import, ir_version=start.ir_version)


def _body(tensors: dict[str, Any], rows_of: Sequence[str], step: Any, stage_one: Any, rounds: int) -> Any:
    """One turn. Names of the main graph, such as those of `rows_of` and its constants, are seen from here."""
    turn = Nodes(tensors)
    before = {name: f"{name} now" for name in ("moving", "wanted", *CARRIED)}
    moving, wanted = before["moving"], before["wanted"]
    own = [turn.add("Gather", [name, moving], f"own {name}", axis=0) for name in rows_of]
    called = {name: name for name in (*own, "new_features", "answer", "asked")}
    turn.place(step, "step/", {**called, "wanted": wanted})
    first = turn.add("Equal", ["turn", turn.constant(0)], "is_first")
    names = ("similarity", "first_stack", "asks", "counted")
    turn.add("If", [first], *(f"{name} next" for name in names), then_branch=_first(tensors, stage_one),
             else_branch=_later(tensors, before))  # fmt: skip
    place = turn.add("Unsqueeze", [moving, turn.constant([1])], "place")
    counted = turn.add("Add", [turn.add("Gather", [before["evaluations"], moving], "so_far"), "counted next"], "by_now")
    new = {"logits": "answer", "features": "new_features", "stack": wanted, "evaluations": counted}
    for name, values in new.items():
        turn.add("ScatterND", [before[name], place, values], f"{name} next")
    changed = turn.add("Not", [turn.add("Equal", ["asks next", wanted], "settled")], "changed")
    left = turn.add("Less", [counted, turn.constant(rounds)], "left")
    goes_on = turn.add("And", [changed, left], "goes_on")
    turn.add("Compress", [moving, goes_on], "moving next", axis=0)
    turn.add("Compress", ["asks next", goes_on], "wanted next", axis=0)
    remaining = turn.add("Size", ["moving next"], "remaining")
    turn.add("Greater", [remaining, turn.constant(0)], "any left")

    info = helper.make_tensor_value_info

    def value(name: str, suffix: str) -> Any:
        columns = CARRIED.get(name)
        kind = TensorProto.FLOAT if columns else TensorProto.INT64
        return info(f"{name} {suffix}", kind, [None, None] if columns else [None])

    carried = ("moving", "wanted", *CARRIED)
    counters = [info("turn", TensorProto.INT64, []), info("any", TensorProto.BOOL, [])]
    given = [*counters, *(value(name, "now") for name in carried)]
    left_over = [info("any left", TensorProto.BOOL, []), *(value(name, "next") for name in carried)]
    return helper.make_graph(turn.made, "turn", given, left_over)


def _first(tensors: dict[str, Any], stage_one: Any) -> Any:
    """In the first turn the prototypes are asked; an image they send elsewhere has not been answered yet."""
    nodes = Nodes(tensors)
    nodes.place(stage_one, "stage one/", {name: name for name in ("new_features", "cosines", "choice")})
    here = nodes.add("Equal", ["choice", nodes.constant(0)], "here")
    nodes.add("Where", [here, "asked", "choice"], "asks then")
    nodes.add("Cast", [here], "counted then", to=TensorProto.INT64)
    return _branch(nodes, "then", ["cosines", "choice", "asks then", "counted then"])


def _later(tensors: dict[str, Any], before: dict[str, str]) -> Any:
    """In later turns the head asks."""
    nodes = Nodes(tensors)
    shape = nodes.add("Shape", ["asked"], "asked shape")
    nodes.add("ConstantOfShape", [shape], "counted else", value=numpy_helper.from_array(np.ones(1, np.int64)))
    kept = [nodes.add("Identity", [before[name]], f"{name} else") for name in ("similarity", "first_stack")]
    asks = nodes.add("Identity", ["asked"], "asks else")
    return _branch(nodes, "else", [*kept, asks, "counted else"])


def _branch(nodes: Nodes, name: str, results: Sequence[str]) -> Any:
    kinds = [(TensorProto.FLOAT, [None, None])] + [(TensorProto.INT64, [None])] * 3
    values = [helper.make_tensor_value_info(r, *kind) for r, kind in zip(results, kinds, strict=True)]
    return helper.make_graph(nodes.made, name, [], values)
