"""Models whose weights or activations are infinite or no numbers: no precision is said to be near
them, and none is chosen."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from canao.accuracy import gate
from canao.accuracy.fastest import compile_fastest
from canao.accuracy.gate import compile_checked
from canao.accuracy.measure import Predictions, labelled_text
from canao.compiler.packaging import compared
from canao.compiler.pipeline import compile_graph, compile_model
from canao.errors import AccuracyError, NotFiniteError
from canao.graph.dtypes import I32
from canao.graph.ir import TOKENS, Graph, Ids, Input, Type, node
from canao.graph.verify import retype, verify
from canao.precision.agreement import agreement
from canao.precision.quantize import FLOAT32, PRECISIONS, in_precision
from canao.target import get_target
from tests.accuracy.test_gate import save_model
from tests.compiler.models import classifier, decoder
from tests.compiler.test_families import QUICK
from tests.train.tiny_bert import write_task

HOST = get_target()
ROUNDED = [p for p in PRECISIONS if p != FLOAT32]
LARGE = 3e38  # twice this is infinite in float32


def overflowing(model: torch.nn.Module) -> Any:
    """Weights are numbers, and what they compute of any text is not."""
    with torch.no_grad():
        for layer in model.bert.encoder.layer[:1]:  # type: ignore[union-attr]
            layer.intermediate.dense.bias[1] = LARGE
            layer.intermediate.dense.weight[1].fill_(LARGE)
    return model


def looked_up(**changes: np.ndarray) -> Graph:
    """Rows of a large table by weights, with a bias; `changes` take the place of constants."""
    rng = np.random.default_rng(0)
    constants = {
        "table": rng.standard_normal((1100, 64)).astype(np.float32),
        "w": rng.standard_normal((48, 64)).astype(np.float32),
        "b": np.zeros(48, np.float32),
        "head": rng.standard_normal((2, 48)).astype(np.float32),
    } | changes
    nodes = (
        node("gather", ("table", "ids"), "x", where="words"),
        node("linear", ("x", "w", "b"), "h", where="dense"),
        node("linear", ("h", "head"), "y", where="head"),
    )
    slot = Input("ids", Type(I32, (1, TOKENS)), Ids(1100))
    return verify(retype(Graph((slot,), constants, nodes, (("y", "y"),), {}, 64)))


def spoilt(name: str, value: float) -> Graph:
    graph = looked_up()
    array = graph.constants[name].copy()
    array.flat[5] = value
    return looked_up(**{name: array})


@pytest.mark.parametrize("precision", ROUNDED)
def test_activations_that_are_not_finite_are_refused(precision: str, tmp_path: Path) -> None:
    model = overflowing(classifier("odd"))
    with pytest.raises(NotFiniteError, match=r"layer\.0\..* random text are not finite in float32"):
        compile_model(
            model, tmp_path / "out", precision=precision, allow_emulation=True, build_flags=QUICK
        )
    assert not (tmp_path / "out").exists()


def test_keys_that_are_not_finite_are_refused(tmp_path: Path) -> None:
    """Also in fp16, in which they would become the largest number."""
    for kept in ("fp16", "int8"):
        model = decoder(layers=1)
        model.transformer.h[0].attn.c_attn.bias.data[-1] = np.inf
        with pytest.raises(NotFiniteError, match="not finite in float32"):
            compile_model(model, tmp_path / "out", kv_cache=kept)


@pytest.mark.parametrize("precision", ROUNDED)
@pytest.mark.parametrize(
    ("name", "where", "what"),
    [("table", "words", "table"), ("w", "dense", "product"), ("b", "dense", "product")],
)
@pytest.mark.parametrize("value", [np.nan, np.inf])
def test_constants_that_are_not_finite_are_refused_by_name(
    name: str, where: str, what: str, value: float, precision: str
) -> None:
    """Whatever they come from: this is where they would be rounded."""
    with pytest.raises(NotFiniteError, match=rf"{where}: the {what} has .* \(1 of \d+ in {name}\)"):
        in_precision(spoilt(name, value), precision)


def test_what_is_not_rounded_may_be_infinite() -> None:
    """A mask has -inf, of which softmax makes zeros; and products that stay in float32 are none of
    a precision's business, unless outputs show it."""
    graph = looked_up()
    mask = np.where(np.arange(48) % 3, 0, -np.inf).astype(np.float32)
    nodes = (*graph.nodes[:2], node("add", ("h", "mask"), "m"), node("softmax", ("m",), "s"),
             node("linear", ("s", "head"), "y"))  # fmt: skip
    graph = graph.replace(nodes=nodes, constants={**graph.constants, "mask": mask})
    graph = verify(retype(graph))
    assert agreement(graph, in_precision(graph, "int8")).cosine > 0.99
    with pytest.raises(NotFiniteError, match="head: the results of a random text are not finite"):
        agreement(spoilt("head", np.nan), in_precision(spoilt("head", np.nan), "int8"))


def test_an_output_that_is_not_finite_is_no_match() -> None:
    """Though no product touched it, and it is the same in both."""
    graph = looked_up()
    nodes = (*graph.nodes, node("log", ("zero",), "l"), node("mul", ("y", "l"), "z"))
    for value, error in ((0.0, NotFiniteError), (1.0, None)):
        held = {**graph.constants, "zero": np.full((1, 1, 1), value, np.float32)}
        changed = graph.replace(nodes=nodes, constants=held, outputs=(("z", "z"),))
        changed = verify(retype(changed))
        if error is None:
            assert agreement(changed, in_precision(changed, "int8")).largest < 1
            continue
        with pytest.raises(error, match="output 'z': the numbers of a random text"):
            agreement(changed, in_precision(changed, "int8"))


def test_numbers_that_only_the_other_precision_lacks() -> None:
    """float32 has room for them and bf16's largest is below: that is no fault of the model, and
    another precision may do."""
    graph = looked_up(w=np.full((48, 64), 3.4e38, np.float32), table=np.zeros((1100, 64), "f4"))
    assert np.isfinite(graph.constants["w"]).all()
    with pytest.raises(AccuracyError, match="not finite in bf16, and are in float32") as refused:
        agreement(graph, in_precision(graph, "bf16"), "bf16")
    assert not isinstance(refused.value, NotFiniteError)
    assert agreement(graph, in_precision(graph, "int8"), "int8").cosine == 1.0


@pytest.mark.parametrize("checked", [False, True])
def test_auto_takes_no_float32_of_it_either(checked: bool, tmp_path: Path) -> None:
    model = overflowing(_tiny(tmp_path / "model"))
    model.save_pretrained(tmp_path / "model")
    data = write_task(tmp_path / "task", train=20, dev=10) if checked else None
    with pytest.raises(NotFiniteError, match=r"not finite|infinite or none"):
        compile_fastest(tmp_path / "model", tmp_path / "out", data, build_flags=QUICK)
    assert not (tmp_path / "out").exists()


def _tiny(folder: Path) -> Any:
    from transformers import AutoModelForSequenceClassification

    return AutoModelForSequenceClassification.from_pretrained(save_model(folder, ("neg", "pos")))


def test_what_a_library_says_on_the_data_must_be_numbers(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Random texts may be well where the user's are not. What another precision alone lacks is a
    loss of it, and fewer products in it may do."""
    model = save_model(tmp_path / "model", ("neg", "pos"))
    data = labelled_text(write_task(tmp_path / "task", train=20, dev=10))
    real = gate.predictions
    broken: list[bool] = []

    def said(artifact: Any, of: Any, opened: Any) -> Predictions:
        found = real(artifact, of, opened)
        return Predictions(found.values, found.score, not broken.pop(0))

    monkeypatch.setattr(gate, "predictions", said)
    told: list[str] = []
    broken[:] = [False, True, False]
    found = compile_checked(model, tmp_path / "out", data, precision="int8", max_loss=100,
                            progress=told.append)  # fmt: skip
    assert len(found.kept) == 1
    assert any("lost" in line and "some numbers are infinite" in line for line in told)
    broken[:] = [True]
    with pytest.raises(NotFiniteError, match="in float32 the model says numbers of some examples"):
        compile_checked(model, tmp_path / "out2", data, precision="int8")
    assert not (tmp_path / "out2").exists()


def test_the_command_line_says_it_in_one_line(tmp_path: Path) -> None:
    """As a process, where NumPy's warnings would be seen."""
    overflowing(classifier("small")).save_pretrained(tmp_path / "model")
    done = subprocess.run(
        [sys.executable, "-m", "canao.cli.app", "compile", str(tmp_path / "model"), "-o",
         str(tmp_path / "out"), "--precision", "int8"],
        capture_output=True, text=True,
    )  # fmt: skip
    lines = done.stderr.splitlines()
    assert done.returncode == 2 and len(lines) == 1, done.stderr
    assert lines[0].startswith("canao: error: ") and "are not finite in float32" in lines[0]
    assert not (tmp_path / "out").exists()


def test_sums_of_halves_are_those_of_the_target() -> None:
    """neon_dotprod adds up 64 products in half precision: a sum beyond 65504 is infinite there and
    nowhere else, and the figures that a manifest has are with these sums."""
    arm = get_target("aarch64-linux").with_isa("neon_dotprod")
    plain = get_target("x86_64-linux")
    graph = looked_up()
    near = {}
    for name, target in (("arm", arm), ("plain", plain)):
        near[name] = compared(compile_graph(graph, target, precision="fp16"))
    assert near["arm"]["largest"] > 1.5 * near["plain"]["largest"] > 0
    assert near["arm"]["cosine"] > 0.9999
    large = looked_up(table=np.full((1100, 64), 40, np.float32), w=np.full((48, 64), 32, "f4"))
    assert compared(compile_graph(large, plain, precision="fp16"))["cosine"] > 0.9999
    with pytest.raises(AccuracyError, match=r"dense: the results .* not finite in fp16, and are"):
        compared(compile_graph(large, arm, precision="fp16"))
