"""What an .onnx file may hold that must not be believed, and what is refused in one line."""

from __future__ import annotations

import sys
from collections.abc import Callable, Iterable
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from canao.compiler.loading import load_model
from canao.compiler.pipeline import compile_model
from canao.errors import CanaoError, InputError, UnsupportedError
from canao.graph.interp import outputs
from canao.graph.ir import Ids

onnx = pytest.importorskip("onnx")
from onnx import TensorProto, helper, numpy_helper  # noqa: E402

_IDS = ("input_ids", TensorProto.INT64, [1, "s"])


def model(
    nodes: list[Any], inputs: Any = (_IDS,), tensors: Any = (), *, opset: int = 17,
    result: str = "y", domain: str = "",
) -> Any:  # fmt: skip
    """A graph of the nodes; `tensors` are (name, array) pairs or protos."""
    stored = [t if isinstance(t, TensorProto) else numpy_helper.from_array(t[1], t[0])
              for t in tensors]  # fmt: skip
    graph = helper.make_graph(
        nodes, "g", [helper.make_tensor_value_info(*i) for i in inputs],
        [helper.make_tensor_value_info(result, TensorProto.FLOAT, None)], stored,
    )  # fmt: skip
    graph.output[0].type.tensor_type.shape.Clear()
    graph.output[0].type.tensor_type.shape.dim.add()
    versions = [helper.make_opsetid("", opset)]
    versions += [helper.make_opsetid(domain, 1)] if domain else []
    return helper.make_model(graph, opset_imports=versions, ir_version=8)


def lookup(rows: int = 9, width: int = 4) -> tuple[list[Any], list[Any]]:
    table = np.arange(rows * width, dtype=np.float32).reshape(rows, width) / 10
    return [helper.make_node("Gather", ["table", "input_ids"], ["x"])], [("table", table)]


def saved(folder: Path, proto: Any) -> Path:
    path = folder / "model.onnx"
    path.write_bytes(proto.SerializeToString())
    return path


def refused(kind: type[CanaoError], path: Path, *words: str) -> None:
    with pytest.raises(kind) as error:
        load_model(path)
    text = str(error.value)
    assert "\n" not in text and all(w in text for w in words), text


def refusals(path: Path, contents: Iterable[bytes]) -> list[str]:
    """What is said of each content of a file that is no model; whatever else happens, is raised."""
    said = []
    for content in contents:
        path.write_bytes(content)
        try:
            load_model(path, 16)
        except CanaoError as error:
            said.append(str(error))
    return said


def after_lookup(op: str, *more: str, **attributes: Any) -> Callable[..., Any]:
    domain = attributes.pop("domain", "")

    def make(**options: Any) -> Any:
        nodes, tensors = lookup()
        nodes.append(helper.make_node(op, ["x", *more], ["y"], name="spot", domain=domain,
                                      **attributes))  # fmt: skip
        return model(nodes, tensors=tensors + options.pop("extra", []), domain=domain, **options)

    return make


def test_files_that_are_none(tmp_path: Path) -> None:
    refused(InputError, tmp_path / "model.onnx", "no such file")
    (tmp_path / "folder.onnx").mkdir()
    refused(InputError, tmp_path / "folder.onnx", "not a file")
    for junk in (b"", b"hello, this is no model", b"\x80\x04\x95cposix\nsystem\n", bytes(1000)):
        (tmp_path / "junk.onnx").write_bytes(junk)
        refused(InputError, tmp_path / "junk.onnx", "not an ONNX file")


def test_truncated_files(tmp_path: Path) -> None:
    """Cut anywhere, a file is refused or is still a model; nothing else happens."""
    whole = after_lookup("Relu")().SerializeToString()
    cut = [whole[:size] for size in range(0, len(whole), 3)]
    said = refusals(tmp_path / "model.onnx", cut)
    assert len(cut) - 5 < len(said) and not any("\n" in text for text in said)


def test_damaged_files(tmp_path: Path) -> None:
    whole = bytearray(after_lookup("Relu")().SerializeToString())
    rng = np.random.default_rng(3)
    damaged = [bytearray(whole) for _ in range(150)]
    for content in damaged:
        for at in rng.integers(0, len(whole), 3):
            content[at] = int(rng.integers(256))
    said = refusals(tmp_path / "model.onnx", map(bytes, damaged))
    assert 50 < len(said) < 150, "damage that is always found, or never, says little"
    assert not any("\n" in text for text in said)


def test_without_the_package(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "onnx", None)
    refused(InputError, tmp_path / "model.onnx", "pip install 'canao[onnx]'")


def test_operators_are_named(tmp_path: Path) -> None:
    for make, words in (
        (after_lookup("Det"), ("operator Det", "'spot'", "opset 17", "not supported")),
        (after_lookup("FastGelu", domain="com.microsoft"),
         ("FastGelu", "'spot'", "com.microsoft", "export without optimisation")),
        (after_lookup("Softmax", axis=7), ("operator Softmax", "'spot'", "opset 17")),
    ):  # fmt: skip
        path = saved(tmp_path, make())
        refused(UnsupportedError, path, *words)


def test_control_flow(tmp_path: Path) -> None:
    nodes, tensors = lookup()
    branch = helper.make_graph(
        [helper.make_node("Relu", ["x"], ["z"])], "b", [],
        [helper.make_tensor_value_info("z", TensorProto.FLOAT, None)])  # fmt: skip
    nodes.append(helper.make_node("If", ["c"], ["y"], name="choice", then_branch=branch,
                                  else_branch=branch))  # fmt: skip
    path = saved(tmp_path, model(nodes, tensors=[*tensors, ("c", np.array(True))]))
    refused(UnsupportedError, path, "operator If", "'choice'", "control flow")


def test_old_opset_and_none(tmp_path: Path) -> None:
    refused(UnsupportedError, saved(tmp_path, after_lookup("Relu")(opset=12)), "opset 12", "13")
    proto = after_lookup("Relu")()
    del proto.opset_import[:]
    refused(UnsupportedError, saved(tmp_path, proto), "no version")


@pytest.mark.parametrize(
    ("shape", "words"),
    (
        ([1, 128], ("fixed length 128", "dynamic")),
        ([4, "s"], ("batch of 4",)),
        (["b", "s", 3], ("[batch, tokens]",)),
    ),
)
def test_shapes_of_inputs(shape: list[Any], words: tuple[str, ...], tmp_path: Path) -> None:
    nodes, tensors = lookup()
    nodes.append(helper.make_node("Relu", ["x"], ["y"]))
    slots = [("input_ids", TensorProto.INT64, shape)]
    refused(UnsupportedError, saved(tmp_path, model(nodes, slots, tensors)), *words)


def test_inputs_that_are_not_known(tmp_path: Path) -> None:
    nodes, tensors = lookup()
    nodes.append(helper.make_node("Relu", ["x"], ["y"]))
    slots = [_IDS, ("pixels", TensorProto.INT64, [1, "s"])]
    path = saved(tmp_path, model(nodes, slots, tensors))
    refused(UnsupportedError, path, "'pixels'", "input_ids")
    slots = [_IDS, ("vectors", TensorProto.FLOAT, [1, "s", 8])]
    refused(UnsupportedError, saved(tmp_path, model(nodes, slots, tensors)), "'vectors'")


def external(location: str, offset: int = 0, length: int = 36 * 4) -> Any:
    t = TensorProto(name="table", data_type=TensorProto.FLOAT, dims=[9, 4])
    t.data_location = TensorProto.EXTERNAL
    for key, value in (("location", location), ("offset", offset), ("length", length)):
        t.external_data.add(key=key, value=str(value))
    return t


def test_external_data_stays_inside(tmp_path: Path) -> None:
    folder = tmp_path / "model"
    folder.mkdir()
    (tmp_path / "secret").write_bytes(bytes(400))
    (folder / "data").write_bytes(np.arange(40, dtype="<f4").tobytes())
    (folder / "link").symlink_to(tmp_path / "secret")
    nodes, _ = lookup()
    nodes.append(helper.make_node("Relu", ["x"], ["y"]))

    def load(tensor: Any) -> Any:
        return load_model(saved(folder, model(nodes, tensors=[tensor])), 8)[1]

    graph = load(external("data", 16))
    ids = np.array([0, 8], np.int32)
    assert outputs(graph, [ids])[0][0, :, 0].tolist() == [4.0, 36.0]
    for wrong, word in (
        (external("../secret"), "outside"), (external("link"), "outside"),
        (external(str(tmp_path / "secret")), "outside"), (external(""), "outside"),
        (external("."), "no file"), (external("missing"), "no file"),
        (external("data", -4), "calls for"), (external("data", 20), "ends before"),
        (external("data", 0, 160), "calls for"), (external("data", 1 << 62), "ends before"),
        (external("a\0b"), "outside"),
    ):  # fmt: skip
        with pytest.raises(InputError, match=word):
            load(wrong)


def test_tensors_are_checked(tmp_path: Path) -> None:
    nodes, _ = lookup()
    nodes.append(helper.make_node("Relu", ["x"], ["y"]))
    short = TensorProto(name="table", data_type=TensorProto.FLOAT, dims=[9, 4], raw_data=bytes(100))
    huge = TensorProto(name="table", data_type=TensorProto.FLOAT, dims=[1 << 40, 1 << 20],
                       raw_data=bytes(8))  # fmt: skip
    negative = TensorProto(name="table", data_type=TensorProto.FLOAT, dims=[-9, -4],
                           raw_data=bytes(144))  # fmt: skip
    fields = TensorProto(name="table", data_type=TensorProto.FLOAT, dims=[9, 4],
                         float_data=[1.0] * 35)  # fmt: skip
    text = TensorProto(name="table", data_type=TensorProto.STRING, dims=[1], string_data=[b"x"])
    for tensor, word in ((short, "calls for"), (huge, "calls for"), (negative, "negative"),
                         (fields, "do not fit"), (text, "element type")):  # fmt: skip
        refused(CanaoError, saved(tmp_path, model(nodes, tensors=[tensor])), "'table'", word)


@pytest.mark.parametrize("kind", ("float16", "float64", "bfloat16"))
def test_other_floats_become_float32(kind: str, tmp_path: Path) -> None:
    nodes, tensors = lookup()
    table = tensors[0][1]
    number = {"float16": TensorProto.FLOAT16, "float64": TensorProto.DOUBLE,
              "bfloat16": TensorProto.BFLOAT16}[kind]  # fmt: skip
    if kind == "bfloat16":
        raw = (table.view(np.uint32) >> 16).astype("<u2")
        stored = TensorProto(name="table", data_type=number, dims=table.shape,
                             raw_data=raw.tobytes())  # fmt: skip
    else:
        stored = numpy_helper.from_array(table.astype(kind), "table")
    nodes.append(helper.make_node("Cast", ["x"], ["y"], to=TensorProto.FLOAT))
    graph = load_model(saved(tmp_path, model(nodes, tensors=[stored])), 8)[1]
    got = outputs(graph, [np.array([3, 7], np.int32)])[0]
    assert np.allclose(got[0], table[[3, 7]], rtol=2**-7)


def test_sizes_that_no_memory_holds(tmp_path: Path) -> None:
    """Constants that a few bytes ask for are not written out."""
    for op, number in (("ConstantOfShape", [1 << 30, 1 << 20]), ("Range", [0, 1 << 60, 1])):
        parts = [(f"n{i}", np.array(n, np.int64)) for i, n in enumerate(number)]
        nodes, tensors = lookup()
        if op == "Range":
            nodes.append(helper.make_node(op, ["n0", "n1", "n2"], ["big"]))
        else:
            parts = [("n0", np.array(number, np.int64))]
            nodes.append(helper.make_node(op, ["n0"], ["huge"]))
            nodes.append(helper.make_node("ReduceSum", ["huge"], ["big"]))
        nodes.append(helper.make_node("Cast", ["big"], ["f"], to=TensorProto.FLOAT))
        nodes.append(helper.make_node("Add", ["x", "f"], ["y"]))
        refused(UnsupportedError, saved(tmp_path, model(nodes, tensors=[*tensors, *parts])))


def test_names_cannot_write_code(tmp_path: Path) -> None:
    name = '"};\nint main(void){return 1;} */ //'
    nodes, tensors = lookup()
    nodes.append(helper.make_node("Relu", ["x"], [name], name='*/ "'))
    path = saved(tmp_path, model(nodes, tensors=tensors, result=name))
    artifact = compile_model(path, tmp_path / "out", max_length=8)
    (shown,) = (o["name"] for o in artifact.manifest["outputs"])
    assert shown.replace("_", "").isalnum()


def test_what_depends_on_the_length_is_refused(tmp_path: Path) -> None:
    """A graph that computes otherwise from 6 tokens on has no one kernel for all lengths."""
    nodes, tensors = lookup()
    nodes += [
        helper.make_node("Shape", ["input_ids"], ["n"], start=1),
        helper.make_node("Greater", ["n", "five"], ["long"]),
        helper.make_node("Where", ["long", "two", "one"], ["factor"]),
        helper.make_node("Mul", ["x", "factor"], ["y"]),
    ]
    numbers = [("five", np.array([5])), ("one", np.array([1.0], np.float32)),
               ("two", np.array([2.0], np.float32))]  # fmt: skip
    path = saved(tmp_path, model(nodes, tensors=tensors + numbers))
    refused(UnsupportedError, path, "Greater", "depends on the length")
    assert load_model(path, 4)[1].max_length == 4


def test_the_command_line_says_it_in_one_line(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str]
) -> None:
    from canao.cli.app import main

    path = saved(tmp_path, after_lookup("Det")())
    monkeypatch.setattr(sys, "argv", ["canao", "compile", str(path), "-o", str(tmp_path / "out")])
    with pytest.raises(SystemExit) as left:
        main()
    assert left.value.code == 3
    lines = capfd.readouterr().err.strip().splitlines()
    assert len(lines) == 1 and lines[0].startswith("canao: error: operator Det")


def test_no_slice_reads_past_its_tensor(tmp_path: Path) -> None:
    """Bounds come from the file, and kernels do not check them."""
    def cut(start: int, stop: int) -> Path:
        nodes, tensors = lookup()
        nodes.append(helper.make_node("Slice", ["x", "a", "b", "one"], ["y"], name="cut"))
        bounds = [("a", np.array([start])), ("b", np.array([stop])), ("one", np.array([1]))]
        return saved(tmp_path, model(nodes, tensors=tensors + bounds))

    assert load_model(cut(0, 1))[1].nodes[-1].attribute("stop") == 1
    refused(UnsupportedError, cut(2, 1 << 40), "Slice", "'cut'")  # empty or less for short texts
    refused(UnsupportedError, cut(-3, -1), "Slice", "'cut'")


def test_ids_are_checked_against_the_smallest_table(tmp_path: Path) -> None:
    """However the ids come to a table, the library refuses those that it has no row for."""
    nodes, tensors = lookup()
    nodes += [
        helper.make_node("Unsqueeze", ["input_ids", "axis"], ["column"]),
        helper.make_node("Gather", ["small", "column"], ["rows"]),
        helper.make_node("Squeeze", ["rows", "axis"], ["flat"]),
        helper.make_node("Add", ["x", "flat"], ["y"]),
    ]
    extra = [("small", np.ones((5, 4), np.float32)), ("axis", np.array([2]))]
    graph = load_model(saved(tmp_path, model(nodes, tensors=tensors + extra)), 8)[1]
    assert graph.inputs[0].kind == Ids(5)


def test_sizes_that_square_themselves(tmp_path: Path) -> None:
    nodes, tensors = lookup()
    nodes.append(helper.make_node("Shape", ["input_ids"], ["n0"], start=1))
    nodes += [helper.make_node("Mul", [f"n{i}", f"n{i}"], [f"n{i + 1}"]) for i in range(64)]
    nodes.append(helper.make_node("Reshape", ["x", "n64"], ["y"]))
    refused(UnsupportedError, saved(tmp_path, model(nodes, tensors=tensors)), "operator Mul")
