"""Graphs of odd but valid forms: results that nothing computes, tables read by computed ids."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest

from canao.compiler.loading import load_model
from canao.compiler.pipeline import compile_graph, compile_model
from canao.errors import UnsupportedError
from canao.graph.interp import outputs
from canao.target import get_target

onnx = pytest.importorskip("onnx")
from onnx import TensorProto, helper, numpy_helper  # noqa: E402

from canao.onnx_backend import CanaoBackend  # noqa: E402
from tests.compiler.test_onnx_files import lookup, model, refused, saved  # noqa: E402
from tests.oracle import SHALLOW, assert_close  # noqa: E402

_A = np.arange(6, dtype=np.float32).reshape(2, 3) - 2
_ONE = ("one", np.array(1, np.float32))


def tensors(nodes: list[Any], results: str, stored: Any = (), shape: Any = (2, 3)) -> Any:
    """A model of one float input `a`; the names of results are letters."""
    graph = helper.make_graph(
        nodes, "g", [helper.make_tensor_value_info("a", TensorProto.FLOAT, shape)],
        [helper.make_tensor_value_info(r, TensorProto.FLOAT, [None]) for r in results],
        [numpy_helper.from_array(array, name) for name, array in stored],
    )  # fmt: skip
    return helper.make_model(graph, opset_imports=[helper.make_opsetid("", 20)], ir_version=10)


def node(op: str, inputs: str, result: str, **attributes: Any) -> Any:
    return helper.make_node(op, inputs.split(), [result], **attributes)


@pytest.mark.parametrize(
    ("made", "expected"),
    (
        (tensors([], "a"), [_A]),
        (tensors([node("Mul", "a one", "y"), node("Identity", "a", "z")], "yz", [_ONE]), [_A, _A]),
        (tensors([node("Transpose", "a", "b"), node("Transpose", "b", "y")], "y"), [_A]),
        (tensors([node("Relu", "a", "y"), node("Identity", "y", "z")], "yz"),
         [np.maximum(_A, 0)] * 2),
        (tensors([node("Abs", "c", "y"), node("Abs", "a", "z")], "yzc", [("c", _A)]),
         [np.abs(_A), np.abs(_A), _A]),
        (tensors([node("Mul", "a c", "y")], "y", [("c", np.array(np.nan, np.float32))]),
         [_A * np.nan]),
        (tensors([node("Mul", "a c", "y")], "y", [("c", np.array(1e-45, np.float32))]),
         [_A * np.float32(1e-45)]),
    ),
    ids=("input", "simplified", "turned twice", "two names", "constants", "NaN", "subnormal"),
)  # fmt: skip
def test_results_that_no_kernel_would_store(made: Any, expected: list[np.ndarray]) -> None:
    got = CanaoBackend.prepare(made).run([_A])
    assert len(got) == len(expected)
    for array, want in zip(got, expected, strict=True):
        assert np.array_equal(array, want.astype(np.float32), equal_nan=True)


def test_a_tensor_of_no_dimensions() -> None:
    made = tensors([node("Neg", "a", "y"), node("Identity", "a", "z")], "yz", shape=())
    y, z = CanaoBackend.prepare(made).run([np.float32(3)])
    assert y.shape == z.shape == () and (y, z) == (-3, 3)


def test_what_no_result_needs_is_not_looked_at(tmp_path: Path) -> None:
    nodes, stored = lookup()
    nodes += [node("Det", "x", "d"), node("Relu", "x", "y")]
    made = model(nodes, tensors=stored)
    made.graph.output.append(helper.make_tensor_value_info("d", TensorProto.INT64, [1]))
    graph = load_model(saved(tmp_path, made), 8)[1]
    assert [name for name, _ in graph.outputs] == ["y"]


def test_one_number_for_a_text(tmp_path: Path) -> None:
    nodes, stored = lookup()
    nodes.append(node("ReduceSum", "x", "y", keepdims=0))
    artifact = compile_model(saved(tmp_path, model(nodes, tensors=stored)), tmp_path / "out",
                             max_length=8)  # fmt: skip
    from canao.inference.compiled_model import CompiledModel

    with CompiledModel(artifact, 1) as compiled:
        got = compiled.run(np.array([[1, 8]]))["y"]
    assert_close(got, [stored[0][1][[1, 8]].sum()], tolerance=SHALLOW)


def test_tables_without_rows_or_dimensions(tmp_path: Path) -> None:
    for table, word in ((np.zeros((0, 4), np.float32), "no rows"),
                        (np.float32(3), "dimension 0 of 0")):  # fmt: skip
        nodes, _ = lookup()
        nodes.append(node("Relu", "x", "y"))
        made = model(nodes, tensors=[("table", np.asarray(table))])
        refused(UnsupportedError, saved(tmp_path, made), word)


def computed(ops: list[Any], rows: int, numbers: dict[str, Any]) -> Any:
    """A model that looks up rows at ids which `ops` compute from input_ids as `ids`."""
    stored = [("small", np.ones((rows, 4), np.float32))]
    stored += [(name, np.array(value)) for name, value in numbers.items()]
    known, table = lookup()
    return model([*known, *ops, node("Gather", "small ids", "z"), node("Add", "x z", "y")],
                 tensors=table + stored)  # fmt: skip


def test_computed_ids_stay_inside_their_table(tmp_path: Path) -> None:
    """Kernels do not check them: whatever could leave the table is refused."""
    less = node("Sub", "input_ids one", "ids")
    refused(UnsupportedError, saved(tmp_path, computed([less], 9, {"one": 1})), "bound to the 9")
    capped = [node("Sub", "input_ids one", "b"), node("Min", "b one", "ids")]
    refused(UnsupportedError, saved(tmp_path, computed(capped, 9, {"one": 1})), "bound to the 9")
    wraps = [node("Mul", "input_ids big", "b"), node("Min", "b one", "ids")]
    refused(UnsupportedError, saved(tmp_path, computed(wraps, 9, {"one": 1, "big": 1 << 30})),
            "bound to the 9")  # fmt: skip
    both = [*capped[:1], node("Max", "b zero", "ids")]
    graph = load_model(saved(tmp_path, computed(both, 8, {"one": 1, "zero": 0})), 8)[1]
    (got,) = outputs(graph, [np.array([0, 8], np.int32)])
    assert_close(got[0, :, 0], [1.0, 4.2], tolerance=SHALLOW)
    doubled = [node("Add", f"v{i} v{i}", f"v{i + 1}") for i in range(60)]
    doubled = [node("Identity", "input_ids", "v0"), *doubled, node("Identity", "v60", "ids")]
    refused(UnsupportedError, saved(tmp_path, computed(doubled, 9, {})), "bound to the 9")


def test_tables_are_not_read_outside_by_position(tmp_path: Path) -> None:
    """What depends on positions only is computed by the compiler, which must not read outside."""
    ops = [node("Shape", "input_ids", "n", start=1), node("Squeeze", "n", "m"),
           node("Range", "zero m one", "r"), node("Mul", "r r", "rr"),
           node("Unsqueeze", "rr first", "ids")]  # fmt: skip
    numbers = {"zero": np.int64(0), "one": np.int64(1), "first": [0]}
    graph = load_model(saved(tmp_path, computed(ops, 10, numbers)), 4)[1]
    compile_graph(graph, get_target())  # at 0, 1, 4 and 9
    graph = load_model(saved(tmp_path, computed(ops, 9, numbers)), 4)[1]
    with pytest.raises(UnsupportedError, match="outside of a table at 4 tokens"):
        compile_graph(graph, get_target())


def test_positions_that_skip_padding_bound_the_length(tmp_path: Path) -> None:
    """As RoBERTa counts them; a table of 12 rows serves texts of 10 tokens."""
    ops = [node("Equal", "input_ids pad", "is"), node("Not", "is", "no"),
           node("Cast", "no", "n", to=TensorProto.INT32), node("CumSum", "n axis", "c"),
           node("Mul", "c n", "m"), node("Cast", "m", "w", to=TensorProto.INT64),
           node("Add", "w pad", "ids")]  # fmt: skip
    made = computed(ops, 12, {"pad": 1, "axis": 1})
    small = made.graph.initializer[1]
    small.CopyFrom(numpy_helper.from_array(np.arange(48, dtype=np.float32).reshape(12, 4), "small"))
    graph = load_model(saved(tmp_path, made))[1]
    assert graph.max_length == 10
    ids = np.array([5, 1, 5, 1, 7], np.int32)
    (got,) = outputs(graph, [ids])
    assert_close(got[0, :, 0], 0.4 * ids + [8, 4, 12, 4, 16], tolerance=SHALLOW)


def test_inspect_lists_all_that_is_refused(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str]
) -> None:
    """Behind a refused operator as well, by the types that ONNX infers for its results."""
    from canao.cli.app import main

    nodes, stored = lookup()
    nodes += [
        helper.make_node("Hardmax", ["x"], ["a"], name="first"),
        helper.make_node("Softmax", ["a"], ["b"], name="second", axis=7),
        helper.make_node("BiasGelu", ["a", "bias"], ["c"], name="third", domain="com.microsoft"),
        helper.make_node("Softmax", ["c"], ["d"], name="behind the unknown", axis=7),
        helper.make_node("DequantizeLinear", ["q", "bias"], ["e"], name="fourth"),
        helper.make_node("Pow", ["a", "e"], ["f"], name="fifth"),
        helper.make_node("Sum", ["b", "d", "f"], ["y"], name="fine"),
    ]
    stored += [("bias", np.ones(4, np.float32)), ("q", np.ones(4, np.int8))]
    path = saved(tmp_path, model(nodes, tensors=stored, opset=18, domain="com.microsoft"))
    refused(UnsupportedError, path, "Hardmax", "'first'", "more: see `canao inspect`")
    monkeypatch.setattr("sys.argv", ["canao", "inspect", str(path)])
    with pytest.raises(SystemExit) as left:
        main()
    assert left.value.code == 3
    shown = capfd.readouterr().out
    for word in ("Hardmax x1", "Softmax x1: dimension 7 of 3", "com.microsoft.BiasGelu x1",
                 "fusion of ONNX Runtime", "DequantizeLinear x1: dimension 1 of 1", "'first'",
                 "'second'", "'third'", "'fourth'"):  # fmt: skip
        assert word in shown, shown
    assert "behind the unknown" not in shown and "'fine'" not in shown


def test_a_triangle_as_a_constant_of_fixed_attention() -> None:
    """Queries and keys of other numbers than the text: no window that ends at the query."""
    rng = np.random.default_rng(1)
    q, k, v = (rng.normal(size=(1, 3, n, 8)).astype(np.float32) for n in (4, 6, 6))
    causal = helper.make_node("Attention", ["q", "k", "v"], ["y"], is_causal=1)
    (got,) = CanaoBackend.run_node(causal, [q, k, v], opset_version=23)
    scores = np.where(np.tri(4, 6, dtype=bool), q @ k.swapaxes(-1, -2) / np.sqrt(8), -np.inf)
    weights = np.exp(scores - scores.max(-1, keepdims=True))
    assert_close(got, weights / weights.sum(-1, keepdims=True) @ v, tolerance=SHALLOW)
