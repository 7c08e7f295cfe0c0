"""CANAO under onnx's own runner: a few node tests; the score of all of them is in docs/onnx.md."""

from __future__ import annotations

import unittest
from typing import Any

import numpy as np
import pytest

from canao.errors import InputError

pytest.importorskip("onnx")
from onnx import helper  # noqa: E402
from onnx.backend.test import BackendTest  # noqa: E402
from onnx.backend.test.runner import BackendIsNotSupposedToImplementIt  # noqa: E402

from canao.onnx_backend import CanaoBackend  # noqa: E402

# Fewer heads of keys than of queries, rotated neighbours, broadcasting, a norm,
# a softmax not along the last dimension, a shape that comes as an input, and
# a sum whose result goes on to a root, and quantised whole numbers that come and go.
TESTS = ("test_attention_4d_gqa_causal", "test_rotary_embedding_interleaved", "test_mish",
         "test_add_bcast", "test_gemm_all_attributes", "test_softmax_axis_0",
         "test_rms_normalization_2d_axis1", "test_reshape_zero_dim",
         "test_reduce_l2_keep_dims_random", "test_matmulinteger", "test_dequantizelinear_axis",
         "test_dynamicquantizelinear_max_adjusted", "test_quantizelinear_uint16",
         "test_qlinearmatmul_3D_uint8_float32")  # fmt: skip


class Runner(BackendTest):
    compared = 0

    @classmethod
    def assert_similar_outputs(cls, *arguments: Any, **options: Any) -> None:
        super().assert_similar_outputs(*arguments, **options)
        Runner.compared += 1


def test_node_tests_of_onnx() -> None:
    runner = Runner(CanaoBackend, __name__)
    for name in TESTS:
        runner.include(f"^{name}_cpu$")
    case = runner.test_cases["OnnxBackendNodeModelTest"]
    for name in TESTS:
        before, result = Runner.compared, unittest.TestResult()
        case(f"{name}_cpu").run(result)
        assert result.wasSuccessful(), result.errors + result.failures
        assert Runner.compared == before + 1, f"{name}: nothing was compared"


def test_one_node_and_its_inputs() -> None:
    node = helper.make_node("Sub", ["a", "b"], ["c"])
    a = np.random.default_rng(0).normal(size=(3, 5)).astype(np.float32)
    (c,) = CanaoBackend.run_node(node, [a, a[0]])
    assert np.array_equal(c, a - a[0])
    square = helper.make_node("Tanh", ["a"], ["c"])
    with pytest.raises(BackendIsNotSupposedToImplementIt, match="float64"):
        CanaoBackend.run_node(square, [a.astype(np.float64)])
    with pytest.raises(BackendIsNotSupposedToImplementIt, match="operator Det"):
        CanaoBackend.run_node(helper.make_node("Det", ["a"], ["c"]), [a[:, :3]])
    assert not CanaoBackend.supports_device("CUDA")


def test_shapes_are_checked() -> None:
    """The library takes pointers: a smaller array must not reach it."""
    slot = helper.make_tensor_value_info("a", 1, [2, 3])
    out = helper.make_tensor_value_info("c", 1, [2, 3])
    graph = helper.make_graph([helper.make_node("Abs", ["a"], ["c"])], "g", [slot], [out])
    rep = CanaoBackend.prepare(helper.make_model(graph))
    assert (rep.run([-np.ones((2, 3), np.float32)])[0] == 1).all()
    for wrong in (np.ones((2, 2), np.float32), np.ones((2, 3)), np.ones(6, np.float32)):
        with pytest.raises(InputError, match="give float32"):
            rep.run([wrong])
