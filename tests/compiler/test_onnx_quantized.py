"""Models that others have quantised: operators against NumPy, whole models against ONNX Runtime."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from canao.build import get_toolchain
from canao.compiler.loading import load_model
from canao.compiler.pipeline import compile_graph, compile_model
from canao.errors import UnsupportedError
from canao.graph.dtypes import I8
from canao.graph.from_onnx.importer import import_tensors, import_text
from canao.graph.from_onnx.load import checked
from canao.graph.ir import Graph
from canao.inference.compiled_model import CompiledModel
from canao.target import get_target
from tests.compiler.test_families import QUICK
from tests.conftest import LENGTHS, thoroughly
from tests.oracle import FLOAT32, ONNX_LEVEL, SHALLOW, assert_close

pytest.importorskip("onnx")
from onnx import TensorProto, helper, numpy_helper  # noqa: E402

from canao.onnx_backend import TensorLibrary  # noqa: E402

F, U8, S8 = TensorProto.FLOAT, np.uint8, np.int8
# Depths and widths off every step, panel and vector.
SIZES = ((1, 1), (5, 17), (31, 33), (127, 49), (770, 100))
# At lengths where that happens nowhere, the outputs are those of ONNX Runtime to rounding. In these
# small models that is so at most lengths.
UNMOVED = 0.6


def model_of(
    nodes: list[Any], constants: dict[str, np.ndarray], shape: Any, opset: int = 21,
    kind: int = F, rank: int = 2,
) -> Any:  # fmt: skip
    slot = helper.make_tensor_value_info("x", kind, shape)
    out = helper.make_tensor_value_info("y", F, [None] * rank)
    tensors = [numpy_helper.from_array(np.asarray(a), k) for k, a in constants.items()]
    graph = helper.make_graph(nodes, "g", [slot], [out], tensors)
    return helper.make_model(graph, opset_imports=[helper.make_opsetid("", opset)], ir_version=10)


def node(op: str, inputs: str, outputs: str, **attributes: Any) -> Any:
    names = ["" if i == "-" else i for i in inputs.split()]
    return helper.make_node(op, names, outputs.split(), **attributes)


def tensors(model: Any) -> Graph:
    return import_tensors(checked(model, None), {})


def run(model: Any, x: np.ndarray, *ops: str) -> np.ndarray:
    """What the library gives; `ops` must be among those of its graph."""
    graph = tensors(model)
    assert {n.op for n in graph.nodes} >= set(ops)
    return TensorLibrary(graph, get_toolchain()).run([x])[0]


def levels(x: np.ndarray, scale: Any, zero: Any, low: int, high: int) -> np.ndarray:
    """QuantizeLinear, as ONNX defines it."""
    return np.clip(np.rint(x / np.float32(scale)) + zero, low, high).astype(np.int64)


def dynamic(x: np.ndarray) -> tuple[np.ndarray, np.float32, int]:
    """DynamicQuantizeLinear, as ONNX defines it."""
    low, high = min(0.0, x.min()), max(0.0, x.max())
    scale = np.float32((high - low) / np.float32(255)) if high > low else np.float32(1)
    zero = int(np.clip(np.rint(-low / scale), 0, 255))
    return levels(x, scale, zero, 0, 255), scale, zero


DYNAMIC = [node("DynamicQuantizeLinear", "x", "q s z"),
           node("MatMulInteger", "q w z wz", "i"), node("Cast", "i", "y", to=F)]  # fmt: skip


@pytest.mark.parametrize("kind", [U8, S8])
@pytest.mark.parametrize("zeros", ["none", "tensor", "columns", "skewed"])
def test_sums_are_exact(kind: Any, zeros: str) -> None:
    """All levels from the least to the largest, at depths whose sums float32 still holds."""
    ends = np.iinfo(kind)
    for k, n in SIZES:
        rng = np.random.default_rng(k)
        w = rng.integers(ends.min, ends.max + 1, (k, n)).astype(kind)
        w[0, 0], w[-1, 0] = ends.min, ends.max
        # Products of two whole columns at the ends would go beyond what float32 holds.
        zero = {"none": np.zeros((), kind), "tensor": np.array(ends.max - 100, kind),
                "columns": rng.integers(ends.min, ends.max + 1, n).astype(kind),
                "skewed": np.array(ends.min + 19, kind)}[zeros]  # fmt: skip
        x = rng.uniform(-1, 3, (9, k)).astype(np.float32)
        got = run(model_of(DYNAMIC, {"w": w, "wz": zero}, [9, k]), x, "quantized_linear")
        q, _, z = dynamic(x)
        want = (q - z) @ (w.astype(np.int64) - zero.astype(np.int64))
        assert np.abs(want).max() < 2**24
        assert np.array_equal(got, want), (k, n)


def test_deep_sums_of_skewed_weights_are_exact() -> None:
    """Activations near one end and a column near the other: the sum is beyond 2^24 before zero
    points are taken off, and small after."""
    rng = np.random.default_rng(0)
    k, n = 1536, 40
    w = np.clip(rng.normal(19, 20, (k, n)), 0, 255).astype(U8)
    w[7, 3] = 255
    x = np.where(rng.random((9, k)) < 0.05, rng.uniform(0, 9, (9, k)), -0.1).astype(np.float32)
    got = run(model_of(DYNAMIC, {"w": w, "wz": np.array(19, U8)}, [9, k]), x, "quantized_linear")
    q, _, z = dynamic(x)
    assert np.abs((q - 128) @ (w.astype(np.int64) - 128)).max() > 2**24
    assert np.array_equal(got, (q - z) @ (w.astype(np.int64) - 19))


@pytest.mark.parametrize("x", [np.zeros((2, 5)), -np.ones((2, 5)), np.full((2, 5), 7.0),
                               np.linspace(-3, 900, 10).reshape(2, 5)])  # fmt: skip
def test_dynamic_ranges(x: np.ndarray) -> None:
    """Ranges of one number, on one side of 0, and none."""
    x = x.astype(np.float32)
    nodes = [node("DynamicQuantizeLinear", "x", "q s z"), node("DequantizeLinear", "q s z", "y")]
    q, scale, zero = dynamic(x)
    assert_close(run(model_of(nodes, {}, [2, 5]), x), (q - zero) * scale, tolerance=SHALLOW,
                 scale=max(1.0, float(np.abs(x).max())))  # fmt: skip


@pytest.mark.parametrize("gemm", [False, True])
@pytest.mark.parametrize("channels", [False, True])
@pytest.mark.parametrize(("rows", "weights"), [(U8, S8), (S8, S8), (U8, U8), (S8, U8)])
def test_quantised_and_dequantised_products(
    rows: Any, weights: Any, channels: bool, gemm: bool
) -> None:
    """QDQ around MatMul and Gemm: the int8 kernel, with scales and zero points of both sides."""
    rng = np.random.default_rng(3)
    k, n = 33, 17
    ends = np.iinfo(weights)
    w = rng.integers(ends.min, ends.max + 1, (k, n)).astype(weights)
    count = n if channels else 1
    wz = rng.integers(ends.min, ends.max + 1, count).astype(weights)
    ws = rng.uniform(0.01, 0.1, count).astype(np.float32)
    z = np.array(np.iinfo(rows).min + 37, rows)
    bias = rng.integers(-900, 900, n).astype(np.int32)
    constants = {"s": np.float32(0.02), "z": z, "w": np.ascontiguousarray(w.T) if gemm else w,
                 "ws": ws if channels else ws[0], "wz": wz if channels else wz[0],
                 "b": bias, "bs": np.float32(0.003)}  # fmt: skip
    nodes = [node("QuantizeLinear", "x s z", "q"), node("DequantizeLinear", "q s z", "a"),
             node("DequantizeLinear", "w ws wz", "v", axis=0 if gemm else 1),
             node("DequantizeLinear", "b bs", "c"),
             node("Gemm", "a v c", "y", transB=1, alpha=0.5) if gemm
             else node("MatMul", "a v", "y")]  # fmt: skip
    x = rng.normal(0, 2, (9, k)).astype(np.float32)
    got = run(model_of(nodes, constants, [9, k]), x, "quantized_linear")
    a = (levels(x, 0.02, int(z), np.iinfo(rows).min, np.iinfo(rows).max) - int(z)) * 0.02
    want = a @ ((w.astype(np.int64) - wz.astype(np.int64)) * ws.astype(np.float64))
    want = want * 0.5 + bias * 0.003 if gemm else want
    assert_close(got, want, tolerance=SHALLOW, scale=float(np.abs(want).max()))


def test_tables_of_whole_numbers_stay_whole() -> None:
    """Embeddings of int8 and uint8, by tensor, column and row, looked up before or after they are
    dequantised; ids are checked against their rows."""
    rng = np.random.default_rng(5)
    ids = np.array([[3, 0, 39, 7]])
    for kind in (U8, S8):
        ends = np.iinfo(kind)
        table = rng.integers(ends.min, ends.max + 1, (40, 6)).astype(kind)
        for axis, scale in ((0, np.float32(0.1)), (1, rng.uniform(0.1, 1, 6)),
                            (0, rng.uniform(0.1, 1, 40))):  # fmt: skip
            scale = np.asarray(scale, np.float32)
            zero = np.full(scale.shape, table.max(), kind) if scale.size != 40 else None
            names = "t s z" if zero is not None else "t s"
            given = {"t": table, "s": scale, **({"z": zero} if zero is not None else {})}
            late = [node("DequantizeLinear", names, "d", axis=axis), node("Gather", "d x", "y")]
            early = [node("Gather", "t x", "g"),
                     node("DequantizeLinear", names.replace("t", "g", 1), "y", axis=2)]  # fmt: skip
            base = int(zero.flat[0]) if zero is not None else 0
            whole = table.astype(np.int64) - base
            want = whole * (scale[:, None] if scale.size == 40 else scale)
            for nodes in (late, early) if scale.size != 40 else (late,):
                model = model_of(nodes, given, [1, None], kind=TensorProto.INT64, rank=3)
                model.graph.input[0].name = "input_ids"
                for n in model.graph.node:
                    n.input[:] = ["input_ids" if i == "x" else i for i in n.input]
                graph = import_text(checked(model, None))
                if not (kind == U8 and scale.size == 40):  # int8 does not hold rows of one scale
                    assert any(graph.types[c].dtype == I8 for c in graph.constants)
                assert graph.inputs[0].kind.limit == 40  # type: ignore[union-attr]
                from canao.graph.interp import outputs

                assert_close(outputs(graph, [ids[0]])[0], want[ids], tolerance=SHALLOW)


REFUSED = {
    "block_size": ([node("DequantizeLinear", "w b", "v", axis=0, block_size=2),
                    node("MatMul", "x v", "y")], "'v'.*blocks of 2.*by tensor or by channel"),
    "shape": ([node("DequantizeLinear", "w c", "v"), node("MatMul", "x v", "y")],
              r"'v'.*scales of shape \[3\].*by channel"),
    "axis": ([node("DequantizeLinear", "w c", "v", axis=2), node("MatMul", "x v", "y")],
             r"DequantizeLinear.*'v'.*dimension 2 of 2"),
    "axis of activations": ([node("QuantizeLinear", "x e", "q", axis=-3),
                             node("DequantizeLinear", "q e", "y", axis=-3)],
                            r"QuantizeLinear.*'q'.*dimension -3 of 2"),
    "zeros": ([node("DequantizeLinear", "w s k", "v", axis=0), node("MatMul", "x v", "y")],
              r"'v'.*zero points of shape \[3\].*by channel"),
    "zeros of activations": ([node("QuantizeLinear", "x s u", "q", axis=1),
                              node("DequantizeLinear", "q s u", "y")],
                             r"'q'.*zero points of shape \[3\].*by channel"),
    "scale": ([node("QuantizeLinear", "x n", "q"), node("DequantizeLinear", "q n", "y")],
              "'q'.*not positive and finite.*quantise the model anew"),
    "float8": ([node("QuantizeLinear", "x s", "q", output_dtype=TensorProto.FLOAT8E4M3FN),
                node("DequantizeLinear", "q s", "y")], "'q'.*other than int8, uint8"),
    "add": ([node("QuantizeLinear", "x s", "q"), node("Add", "q q", "r"),
             node("DequantizeLinear", "r s", "y")], "Add at node 'r'.*quantised uint8.*QDQ"),
    "zero": ([node("DequantizeLinear", "i s j", "v"), node("MatMul", "x v", "y")],
             "'v'.*zero point of int32.*quantise biases around 0"),
    "fusion": ([helper.make_node("MatMulIntegerToFloat", ["x", "w"], ["y"],
                                 domain="com.microsoft")], "export without optimisation"),
    "operators": ([helper.make_node("QLinearAdd", ["x", "w"], ["y"], domain="com.microsoft")],
                  "QuantFormat.QDQ"),
    "convolution": ([node("ConvInteger", "x w", "y")], "ConvInteger.*as it was before"),
}  # fmt: skip


@pytest.mark.parametrize("case", REFUSED)
def test_what_is_refused_is_named(case: str) -> None:
    nodes, message = REFUSED[case]
    constants = {"w": np.ones((4, 5), S8), "b": np.ones((2, 5), np.float32), "s": np.float32(1),
                 "c": np.ones(3, np.float32), "n": np.float32(-1), "i": np.ones((4, 5), np.int32),
                 "j": np.array(3, np.int32), "e": np.ones(4, np.float32), "k": np.ones(3, S8),
                 "u": np.ones(3, U8)}  # fmt: skip
    model = model_of(nodes, constants, [2, 4])
    model.opset_import.append(helper.make_opsetid("com.microsoft", 1))
    with pytest.raises(UnsupportedError, match=message) as error:
        tensors(model)
    assert "\n" not in str(error.value)


def test_whole_numbers_that_floats_do_not_hold_are_no_outputs() -> None:
    model = model_of(DYNAMIC[:2], {"w": np.ones((300, 2), S8), "wz": np.array(0, S8)}, [2, 300])
    model.graph.output[0].name, model.graph.output[0].type.tensor_type.elem_type = "i", 6
    with pytest.raises(UnsupportedError, match="output 'i' is not float32"):
        tensors(model)


# Whole models, quantised by ONNX Runtime's tools.

# Of three choices each two meet in the first four.
DYNAMICS = [("QInt8", False, False), ("QInt8", True, True), ("QUInt8", False, True),
            ("QUInt8", True, False)]  # fmt: skip
MORE_DYNAMICS = [(w, channels, not reduced) for w, channels, reduced in DYNAMICS]
STATICS = [("QUInt8", "QInt8", False, False), ("QInt8", "QInt8", True, True),
           ("QUInt8", "QUInt8", False, False), ("QInt8", "QInt8", False, True)]  # fmt: skip


class Calibration:
    """Some texts, as quantize_static reads them."""

    def __init__(self, names: list[str]) -> None:
        self.texts = iter([inputs(names, 32, seed) for seed in range(4)])

    def get_next(self) -> dict[str, np.ndarray] | None:
        return next(self.texts, None)


def inputs(names: list[str], length: int, seed: int = 0) -> dict[str, np.ndarray]:
    rng = np.random.default_rng((length, seed))
    given = {"input_ids": rng.integers(2, 99, (1, length)),
             "token_type_ids": rng.integers(0, 2, (1, length)),
             "attention_mask": np.ones((1, length), np.int64)}  # fmt: skip
    return {name: given[name] for name in names}


@pytest.fixture(scope="module", params=["bert", "distilbert"])
def exported(request: Any, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Path]:
    pytest.importorskip("onnxruntime")
    from tests.compiler.test_onnx import export, make

    path = tmp_path_factory.mktemp("float") / f"{request.param}.onnx"
    export(make(request.param), path, 17, dynamo=False)
    yield path


def session(path: Path, static: bool) -> Any:
    """ONNX Runtime with exact sums: some of its kernels saturate on machines without VNNI, and
    what it makes of QDQ by itself depends on the machine."""
    import onnxruntime

    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads = 1
    if static:
        options.graph_optimization_level = onnxruntime.GraphOptimizationLevel.ORT_DISABLE_ALL
    else:
        options.add_session_config_entry("session.x64quantprecision", "1")
    return onnxruntime.InferenceSession(str(path), options)


def compare(path: Path, folder: Path, static: bool) -> None:
    """The library on one and two threads, and in batches, against ONNX Runtime."""
    expected = session(path, static)
    names = [i.name for i in expected.get_inputs()]
    graph = compile_graph(load_model(path)[1], get_target()).program.graph
    ops = [n.op for n in graph.nodes]
    assert ops.count("quantized_linear") >= 12 and "linear" not in ops
    assert "quantized_gather" in ops
    artifact = compile_model(path, folder / "out", build_flags=QUICK)
    slots = [i["name"] for i in artifact.manifest["inputs"]]
    texts = [inputs(names, n) for n in LENGTHS]
    wants = [expected.run(None, given)[0] for given in texts]
    for threads in (1, 2):
        with CompiledModel(artifact, threads) as compiled:
            unmoved = 0
            for given, want in zip(texts, wants, strict=True):
                got = next(iter(compiled.run(*(given[s] for s in slots)).values()))
                scale = max(1.0, float(np.abs(want).max()))
                length = str(given["input_ids"].size)
                assert_close(got, want, length, tolerance=ONNX_LEVEL, scale=scale)
                unmoved += bool(np.abs(got - want).max() <= FLOAT32 * scale)
            assert unmoved >= UNMOVED * len(LENGTHS), f"{unmoved} of {len(LENGTHS)} lengths"


@pytest.mark.parametrize(
    ("weights", "channels", "reduced"), thoroughly(DYNAMICS, DYNAMICS + MORE_DYNAMICS)
)
def test_dynamic_models(
    exported: Path, weights: str, channels: bool, reduced: bool, tmp_path: Path
) -> None:
    from onnxruntime.quantization import QuantType, quantize_dynamic

    path = tmp_path / "model.onnx"
    quantize_dynamic(exported, path, weight_type=getattr(QuantType, weights),
                     per_channel=channels, reduce_range=reduced)  # fmt: skip
    compare(path, tmp_path, static=False)


@pytest.mark.parametrize(("rows", "weights", "symmetric", "channels"), STATICS)
def test_static_models(
    exported: Path, rows: str, weights: str, symmetric: bool, channels: bool, tmp_path: Path
) -> None:
    import onnx
    from onnxruntime.quantization import QuantFormat, QuantType, quantize_static

    path = tmp_path / "model.onnx"
    names = [i.name for i in onnx.load(exported).graph.input]
    quantize_static(
        exported, path, Calibration(names), quant_format=QuantFormat.QDQ,
        activation_type=getattr(QuantType, rows), weight_type=getattr(QuantType, weights),
        per_channel=channels, extra_options={"ActivationSymmetric": symmetric},
    )  # fmt: skip
    compare(path, tmp_path, static=True)
