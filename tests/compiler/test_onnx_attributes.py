"""Every attribute of every operator that CANAO imports is looked at."""

from __future__ import annotations

from pathlib import Path

import pytest

onnx = pytest.importorskip("onnx")
from onnx import TensorProto, helper  # noqa: E402

from canao.errors import UnsupportedError  # noqa: E402
from canao.graph.from_onnx.attributes import NO_EFFECT, takes, understood  # noqa: E402
from canao.graph.from_onnx.builder import Builder  # noqa: E402
from canao.graph.from_onnx.load import OLDEST  # noqa: E402
from canao.graph.from_onnx.rules import RULES  # noqa: E402
from tests.compiler.test_onnx_files import after_lookup, refused, saved  # noqa: E402

# Attributes that rules refuse by having no parameter for them, unless they say what is so anyway.
REFUSED = {"Mod": {"fmod"}, "Attention": {"left_window_size", "right_window_size"}}
NEWEST = onnx.defs.onnx_opset_version()


def attributes(operator: str) -> set[str]:
    """Those that an operator has in any opset that is read."""
    found: set[str] = set()
    for opset in range(OLDEST, NEWEST + 1):
        if onnx.defs.has(operator, opset, ""):
            found |= set(onnx.defs.get_schema(operator, opset, "").attributes)
    return found


@pytest.mark.parametrize("operator", sorted(RULES))
def test_no_attribute_is_passed_over(operator: str) -> None:
    known = attributes(operator)
    idle, refused_ones = set(NO_EFFECT.get(operator, ())), REFUSED.get(operator, set())
    for name in known - idle - refused_ones:
        assert takes(operator, name), name
    for name in refused_ones:
        assert not takes(operator, name), name
    assert idle <= known, "attributes without effect that ONNX has not"


def at(operator: str, opset: int, **given: object) -> list[str]:
    b = Builder(opset, 16)
    b.current = helper.make_node(operator, ["x"], ["y"], name="spot", **given)
    return [a.name for a in understood(b, b.current)]


@pytest.mark.parametrize("operator", sorted(RULES))
def test_an_attribute_that_is_not_known_is_refused(operator: str) -> None:
    opset = onnx.defs.get_schema(operator, NEWEST, "").since_version
    with pytest.raises(UnsupportedError, match=r"'spot'.*attribute 'of_tomorrow'"):
        at(operator, opset, of_tomorrow=1)


def test_attributes_without_effect_are_left_out() -> None:
    assert at("LayerNormalization", 17, axis=-1, stash_type=1) == ["axis"]
    assert at("Softmax", 17, axis=1) == ["axis"]
    assert at("Mod", 17, fmod=0) == []
    with pytest.raises(UnsupportedError, match="attribute 'fmod'"):
        at("Mod", 17, fmod=1)
    with pytest.raises(UnsupportedError, match="this opset"):
        at("Swish", 17)


@pytest.mark.parametrize(("operator", "given", "words"), [
    ("Softmax", {"of_tomorrow": 1}, ("of_tomorrow", "Softmax")),
    ("Gelu", {"approximate": "fast"}, ("'fast'", "'spot'")),
    ("CustomNorm", {"domain": "ai.vendor"}, ("ai.vendor.CustomNorm", "'spot'", "ONNX itself")),
])  # fmt: skip
def test_files_that_have_them(
    operator: str, given: dict[str, object], words: tuple[str, ...], tmp_path: Path
) -> None:
    path = saved(tmp_path, after_lookup(operator, **given)(opset=20))
    refused(Exception, path, *words)  # type: ignore[type-var]


def test_external_data_has_no_entry_that_is_not_known(tmp_path: Path) -> None:
    proto = after_lookup("Relu")()
    tensor = proto.graph.initializer[0]
    raw = bytes(tensor.raw_data)
    tensor.ClearField("raw_data")
    tensor.data_location = TensorProto.EXTERNAL
    tensor.external_data.add(key="location", value="data")
    (tmp_path / "data").write_bytes(raw)
    for key, value, word in (("compressed", "zip", "compressed"),
                             ("checksum", "0" * 40, "exported")):  # fmt: skip
        tensor.external_data.add(key=key, value=value)
        refused(Exception, saved(tmp_path, proto), "'table'", word)  # type: ignore[type-var]
        del tensor.external_data[-1]
