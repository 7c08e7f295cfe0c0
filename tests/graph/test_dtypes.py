"""Element types: each is found by its name and by its numbers elsewhere, and is one object."""

from __future__ import annotations

import copy
import pickle

import numpy as np
import pytest

from canao.errors import UnsupportedError
from canao.graph.dtypes import (
    BF16,
    BOOL,
    COMPUTED,
    DTYPES,
    F16,
    F32,
    I8,
    I32,
    KINDS,
    QUANTIZED,
    DType,
    by_name,
    by_numpy,
    widest,
)
from canao.graph.ir import TOKENS, Type, constant_type

EVERY = tuple(DTYPES.values())


@pytest.mark.parametrize("dtype", EVERY, ids=str)
def test_a_dtype_is_found_by_each_of_its_names(dtype: DType) -> None:
    assert by_name(dtype.name) is dtype
    if dtype.numpy is not None:
        assert by_numpy(np.zeros(1, dtype.numpy).dtype) is dtype
        assert by_numpy(np.dtype(dtype.numpy).newbyteorder(">")) is dtype
    assert dtype.kind in (*KINDS, "quantized")


@pytest.mark.parametrize("dtype", EVERY, ids=str)
def test_a_copy_is_the_same_object(dtype: DType) -> None:
    assert pickle.loads(pickle.dumps(dtype)) is dtype
    assert copy.deepcopy(Type(dtype, (1, TOKENS))) == Type(dtype, (1, TOKENS))
    assert copy.deepcopy(dtype) is dtype


def test_onnx_numbers_are_those_of_onnx() -> None:
    onnx = pytest.importorskip("onnx")
    names = {F32: "FLOAT", I32: "INT32", BOOL: "BOOL", F16: "FLOAT16", BF16: "BFLOAT16", I8: "INT8"}
    assert {*names, *QUANTIZED} == set(EVERY)
    assert all(d.onnx == onnx.TensorProto.DataType.Value(name) for d, name in names.items())


def test_what_is_not_known_is_refused_by_name() -> None:
    for find, argument, shown in (
        (by_name, "f64", "'f64'"),
        (by_numpy, np.dtype(np.float64), "'float64'"),
    ):
        with pytest.raises(UnsupportedError, match=shown):
            find(argument)


def test_graphs_hold_only_what_they_compute_with() -> None:
    for dtype in COMPUTED:
        assert constant_type(np.zeros((2, 3), dtype.numpy)) == Type(dtype, (2, 3))
    with pytest.raises(UnsupportedError, match="'float64' of NumPy"):
        constant_type(np.zeros(2, np.float64))


def test_text_and_sizes() -> None:
    assert str(Type(F32, (1, TOKENS, 4))) == "f32[1, s, 4]"
    assert f"{BOOL}" == repr(BOOL) == "bool"
    assert [d.bytes for d in (F32, I32, BOOL, F16, BF16, I8)] == [4, 4, 4, 2, 2, 1]


def test_widest() -> None:
    assert widest((BOOL, I32)) is I32
    assert widest((I32, F32, BOOL)) is F32
    assert widest((I8, I32)) is I32
    assert widest((F16, I32)) is F16
