"""ONNX files of a few bytes that ask for memory or time without end."""

from __future__ import annotations

import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest

onnx = pytest.importorskip("onnx")
from onnx import TensorProto, helper, numpy_helper  # noqa: E402

from tests.compiler.test_onnx_files import lookup, model  # noqa: E402
from tests.hostile import assert_refused, judged  # noqa: E402

pytestmark = pytest.mark.skipif(sys.platform != "linux", reason="limits memory as Linux does")


def after_lookup(nodes: list[Any], tensors: Any = (), **options: Any) -> Any:
    """Nodes after a look-up `x` of shape [1, s, 4]."""
    first, table = lookup()
    return model([*first, *nodes], tensors=[*table, *tensors], **options)


def chain(op: str, count: int, *, twice: bool = False, **attributes: Any) -> Any:
    """A chain of one operator; with `twice` each node reads the one before as both operands."""
    names = ["x", *(f"x{i}" for i in range(1, count)), "y"]
    return after_lookup([
        helper.make_node(op, [a] * (2 if twice else 1), [b], **attributes)
        for a, b in zip(names, names[1:], strict=False)
    ])  # fmt: skip


def functions(calls: int, depth: int, *, last: list[Any] | None = None) -> Any:
    """Functions f0, f1, ...: each calls the next `calls` times, the last is Relu."""
    made = []
    for i in range(depth):
        names = ["a", *(f"t{j}" for j in range(calls - 1)), "b"]
        pairs = zip(names, names[1:], strict=False)
        body = [helper.make_node(f"f{i + 1}", [p], [q], domain="d") for p, q in pairs]
        if i == depth - 1:
            body = last or [helper.make_node("Relu", ["a"], ["b"])]
        imports = [helper.make_opsetid("", 17), helper.make_opsetid("d", 1)]
        made.append(helper.make_function("d", f"f{i}", ["a"], ["b"], body, imports))
    proto = after_lookup([helper.make_node("f0", ["x"], ["y"], domain="d")], domain="d")
    proto.functions.extend(made)
    return proto


def itself() -> Any:
    return functions(2, 1, last=[helper.make_node("f0", ["a"], ["b"], domain="d")])


def branches(depth: int) -> Any:
    """If within If within If."""
    out = [helper.make_tensor_value_info("z", TensorProto.FLOAT, None)]
    inner = helper.make_graph([helper.make_node("Relu", ["x"], ["z"])], "g", [], out)
    for _ in range(depth):
        chosen = helper.make_node("If", ["c"], ["z"], then_branch=inner, else_branch=inner)
        inner = helper.make_graph([chosen], "g", [], out)
    return after_lookup([helper.make_node("If", ["c"], ["y"], then_branch=inner,
                                          else_branch=inner)], [("c", np.array(True))])  # fmt: skip


def grown(nodes: list[Any], numbers: dict[str, Any], *, result: str = "big") -> Any:
    """A constant that nodes compute from a few numbers, added to the rows."""
    nodes = [*nodes, helper.make_node("ReduceMax", [result], ["one"], keepdims=0),
             helper.make_node("Cast", ["one"], ["f"], to=TensorProto.FLOAT),
             helper.make_node("Add", ["x", "f"], ["y"])]  # fmt: skip
    return after_lookup(nodes, [(k, np.array(v)) for k, v in numbers.items()])


def ranges(count: int) -> Any:
    nodes = [helper.make_node("Range", ["zero", f"n{i}", "step"], [f"r{i}"]) for i in range(count)]
    nodes += [helper.make_node("ReduceSum", [f"r{i}"], [f"s{i}"]) for i in range(count)]
    nodes.append(helper.make_node("Sum", [f"s{i}" for i in range(count)], ["big"]))
    return grown(nodes, {"zero": 0, "step": 1, **{f"n{i}": (1 << 25) + i for i in range(count)}})


def outer(op: str) -> Any:
    """[n, 1] op [1, n]"""
    nodes = [helper.make_node("Range", ["zero", "n", "step"], ["r"]),
             helper.make_node("Unsqueeze", ["r", "zeros"], ["row"]),
             helper.make_node("Unsqueeze", ["r", "ones"], ["column"]),
             helper.make_node(op, ["row", "column"], ["big"])]  # fmt: skip
    return grown(nodes, {"zero": 0, "step": 1, "n": 1 << 20, "zeros": [0], "ones": [1]})


def repeated(op: str, numbers: dict[str, Any]) -> Any:
    """`op` of a range of a million numbers."""
    nodes = [helper.make_node("Range", ["zero", "n", "step"], ["r"]),
             helper.make_node(op, ["r", *numbers], ["big"])]  # fmt: skip
    return grown(nodes, {"zero": 0, "step": 1, "n": 1 << 20, **numbers})


def joined() -> Any:
    """A range joined to itself again and again."""
    nodes = [helper.make_node("Range", ["zero", "n", "step"], ["r0"])]
    nodes += [helper.make_node("Concat", [f"r{i}"] * 8, [f"r{i + 1}"], axis=0) for i in range(12)]
    return grown(nodes, {"zero": 0, "step": 1, "n": 1 << 20}, result="r12")


def looked_up() -> Any:
    rows, ids = np.arange(1 << 20).reshape(1 << 10, 1 << 10), np.zeros(1 << 20, np.int64)
    return grown([helper.make_node("Gather", ["rows", "ids"], ["big"])], {"rows": rows, "ids": ids})


def claimed(**fields: Any) -> Any:
    dims = [1 << 30, 1 << 20]
    table = TensorProto(name="table", data_type=TensorProto.FLOAT, dims=dims, **fields)
    gather = helper.make_node("Gather", ["table", "input_ids"], ["y"])
    return model([gather], tensors=[table])


def beside(folder: Path) -> Any:
    """Many tensors that are all the same bytes of one file, which has none on the disk."""
    with open(folder / "weights", "wb") as stream:
        stream.truncate(1 << 30)
    stored = []
    for i in range(20):
        t = TensorProto(name=f"w{i}", data_type=TensorProto.FLOAT, dims=[1 << 14, 1 << 14])
        t.data_location = TensorProto.EXTERNAL
        t.external_data.add(key="location", value="weights")
        stored.append(t)
    return after_lookup([helper.make_node("Relu", ["x"], ["y"])], stored)


def numerous(count: int) -> Any:
    nodes = [helper.make_node("Relu", ["x"], [f"r{i}"]) for i in range(count)]
    return after_lookup([*nodes, helper.make_node("Relu", ["x"], ["y"])])


def empty_nodes(folder: Path) -> bytes:
    """A graph of nodes without a field: two bytes each."""
    body = b"\x0a\x00" * 6_000_000
    size, length = len(body), b""
    while size:
        length += bytes([size & 127 | (128 if size > 127 else 0)])
        size >>= 7
    return b"\x08\x08" + b"\x3a" + length + body


REFUSED: dict[str, tuple[Callable[..., Any], tuple[str, ...]]] = {
    "functions": (lambda _: functions(10, 12), ("functions written out", "--max-nodes")),
    "functions of constants": (
        lambda _: functions(60, 3, last=[
            helper.make_node("Constant", [], ["k"], value=numpy_helper.from_array(
                np.zeros(1 << 17, np.float32))),
            helper.make_node("ReduceSum", ["k"], ["l"]), helper.make_node("Add", ["a", "l"], ["b"]),
        ]), ("functions written out", "--max-memory")),
    "functions without end": (lambda _: itself(), ("calls itself",)),
    "functions in functions": (lambda _: functions(1, 3000), ("deep",)),
    "branches": (lambda _: branches(12), ("operator If", "control flow")),
    "ranges": (lambda _: ranges(30), ("compile time", "--max-memory")),
    "outer sum": (lambda _: outer("Add"), ("operator Add", "elements")),
    "outer comparison": (lambda _: outer("Less"), ("operator Less", "elements")),
    "tile": (lambda _: repeated("Tile", {"k": [1 << 20]}), ("operator Tile",)),
    "pad": (lambda _: repeated("Pad", {"k": [0, 1 << 40]}), ("operator",)),
    "joined": (lambda _: joined(), ("operator",)),
    "looked up": (lambda _: looked_up(), ("operator Gather", "elements")),
    "claimed": (lambda _: claimed(raw_data=bytes(8)), ("'table'", "calls for")),
    "claimed in fields": (lambda _: claimed(float_data=[1.0]), ("'table'", "do not fit")),
    "beside": (beside, ("weights take", "--max-memory")),
    "numerous": (lambda _: numerous(21_000), ("20000 operators", "--max-nodes")),
    "empty nodes": (empty_nodes, ("more parts", "--max-nodes")),
}  # fmt: skip
COMPILED: dict[str, Callable[[], Any]] = {
    "25 additions": lambda: chain("Add", 25, twice=True),
    "25 products": lambda: chain("Mul", 25, twice=True),
    "200 additions": lambda: chain("Add", 200, twice=True),
    "12 concatenations": lambda: chain("Concat", 12, twice=True, axis=2),
    "200 in a row": lambda: chain("Tanh", 200),
    "functions of functions": lambda: functions(3, 4),
}


def written(folder: Path, name: str, made: Any) -> Path:
    path = folder / name / "model.onnx"
    path.write_bytes(made if isinstance(made, bytes) else made.SerializeToString())
    return path


def test_what_would_take_all_memory_or_time(tmp_path: Path) -> None:
    paths = {}
    for name, (make, _) in REFUSED.items():
        (tmp_path / name).mkdir()
        paths[name] = written(tmp_path, name, make(tmp_path / name))
    for name, small in COMPILED.items():
        (tmp_path / name).mkdir()
        paths[name] = written(tmp_path, name, small())
    said = judged(paths)
    assert_refused(said, {name: words for name, (_, words) in REFUSED.items()})
    assert {name: said[name] for name in COMPILED} == dict.fromkeys(COMPILED, "compiled")
