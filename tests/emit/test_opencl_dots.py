"""Dot products of bytes in OpenCL C: clang, which has the functions of Khronos and ARM and knows
what NVIDIA's assembler is given, takes each way, and calls what it should."""

from __future__ import annotations

import re
import subprocess
import sys

import pytest

from canao.emit.opencl.prelude import NO_DOT4, prelude
from canao.target import VECTORS

# What a compiler declares before a program, as far as this needs it, and what uses it.
BEFORE = """\
typedef unsigned int uint;
typedef char char4 __attribute__((ext_vector_type(4)));
typedef int vi __attribute__((ext_vector_type($V)));
#define as_uint(x) __builtin_astype((x), uint)
#define as_char4(x) __builtin_astype((x), char4)
"""
USER = """
void one(__global const vi *y, int x, __global vi *c) { *c = vi_dot4(*y, x, *c); }
"""
SPIR, NVIDIA = "spir64-unknown-unknown", "nvptx64-nvidia-nvcl"
KHR = ("cl_khr_integer_dot_product", "__opencl_c_integer_dot_product_input_4x8bit_packed")
ARM = ("cl_arm_integer_dot_product_int8", "cl_arm_integer_dot_product_accumulate_int8")
# Way -> target, version of OpenCL C, what is defined, and what is called for each word.
WAYS = {
    "khr": (SPIR, "CL3.0", KHR, r"@_Z28dot_acc_sat_4x8packed_ss_intjji\("),
    "arm": (SPIR, "CL1.2", ARM[:1], r"@_Z7arm_dotDv4_cS_\("),
    "arm_acc": (SPIR, "CL1.2", ARM, r"@_Z11arm_dot_accDv4_cS_i\("),
    "both": (SPIR, "CL3.0", KHR + ARM, r"@_Z11arm_dot_accDv4_cS_i\("),
    "nvidia": (NVIDIA, "CL1.2", ("__NV_CL_C_VERSION",), r'asm "dp4a\.s32\.s32 '),
}  # fmt: skip
# Four for each vector, of the bytes taken apart.
APART = r"@_Z5mad24Dv\d+_iS_S_\("


def calls(vector: int, target: str, version: str, defined: tuple[str, ...], called: str) -> int:
    """How often a function calls something."""
    text = BEFORE.replace("$V", str(vector)) + prelude(vector, frozenset({"dot4"}))[-1] + USER
    done = subprocess.run(
        [sys.executable, "-m", "ziglang", "clang", "-x", "cl", f"-cl-std={version}",
         "-cl-no-stdinc", "-Xclang", "-fdeclare-opencl-builtins", "-target", target, "-S",
         "-emit-llvm", "-O1", "-Wall", "-Werror", "-Wno-ignored-pragmas",
         *(f"-D{name}=1" for name in defined), "-o", "-", "-"],
        input=text, capture_output=True, text=True, timeout=120,
    )  # fmt: skip
    assert (done.returncode, done.stderr) == (0, "")
    function = re.search(r"^define [^\n]* @one\(.*?^}", done.stdout, re.M | re.S)
    assert function
    return len(re.findall(called, function[0]))


@pytest.mark.parametrize("vector", VECTORS)
@pytest.mark.parametrize("way", WAYS)
def test_each_word_by_one_call(way: str, vector: int) -> None:
    target, version, defined, called = WAYS[way]
    assert calls(vector, target, version, defined, called) == vector


@pytest.mark.parametrize("way", WAYS)
def test_without(way: str) -> None:
    """Nothing is used of what is there. In OpenCL C 1.2 clang has none, in 3.0 Khronos'."""
    target, version, defined, _ = WAYS[way]
    assert calls(4, target, version, (*defined, NO_DOT4), APART) == 4
    assert calls(4, target, "CL1.2", (), APART) == 4
