"""Where training computes, and in which numbers: a CPU, or a GPU that PyTorch knows."""

from __future__ import annotations

import math
import time
from collections.abc import Iterator
from contextlib import contextmanager, nullcontext
from functools import cache
from typing import Any

import torch
from torch import Tensor, nn

from canao.errors import InputError
from canao.machine import local_machine
from canao.train.engine.threads import threads
from canao.train.options import BF16, DEVICES, FLOAT32

# A CPU whose products in bfloat16 may be faster than in float32 has one of these.
_CPU_BF16 = frozenset(("avx512_bf16", "amx_bf16", "bf16"))
# How that is found out: rows of a layer of MiniLM's, timed in turns.
_TRIED, _TRIES, _GAIN = (512, 384, 1536), 7, 1.1


def training_device(name: str) -> torch.device:
    """The device called `name`: 'cpu', 'cuda', 'mps', or the first GPU that computes, else the CPU,
    for 'auto'. InputError if there is none, or this PyTorch cannot use it."""
    if name not in DEVICES:
        raise InputError(f"training: device is '{name}'; give {', '.join(DEVICES)}")
    if name == "auto":
        return torch.device(next((gpu for gpu in ("cuda", "mps") if not _hindrance(gpu)), "cpu"))
    why = _hindrance(name)
    if why:
        raise InputError(
            f"training: no device '{name}' for PyTorch {torch.__version__} here ({why}); give "
            "--train-device cpu, or install a PyTorch for it"
        )
    return torch.device(name)


def _hindrance(name: str) -> str:
    """Why a device cannot be computed on; '' if it can. One may be there that this PyTorch has no
    code for, or whose memory others have taken."""
    there = {"cuda": torch.cuda.is_available(), "mps": torch.backends.mps.is_available()}
    if not there.get(name, True):
        return "it finds none"
    try:
        ones = torch.ones(8, 8, device=name)
        float((ones @ ones).sum())
    except RuntimeError as error:
        return (str(error).strip() or type(error).__name__).splitlines()[0][:200].rstrip(".")
    return ""


def computes_in(device: torch.device, dtype: str) -> str:
    """What products are computed in: 'float32' or 'bf16'; for 'auto' bf16 where that is faster."""
    if dtype != "auto":
        return dtype
    if device.type == "cuda":
        return BF16 if torch.cuda.is_bf16_supported(including_emulation=False) else FLOAT32
    if device.type != "cpu" or _CPU_BF16.isdisjoint(local_machine().features):
        return FLOAT32
    return BF16 if _bf16_gains() > _GAIN else FLOAT32


@cache
def _bf16_gains() -> float:
    """How many times as fast a layer is in bfloat16 on this CPU. Its instructions do not tell: a
    Xeon with AVX512_BF16 and no AMX takes twice as long as in float32, while one with AMX trains
    1.5 times as fast, and the same model of processor may show AMX or not."""
    rows, inputs, outputs = _TRIED
    # Nothing is drawn: what follows has to draw the same with and without.
    x, weights = torch.ones(rows, inputs), torch.ones(outputs, inputs)
    least = dict.fromkeys((FLOAT32, BF16), math.inf)
    with torch.no_grad():
        for _ in range(_TRIES):
            for dtype in least:
                begun = time.perf_counter()
                with autocast(torch.device("cpu"), dtype):
                    nn.functional.linear(x, weights)
                least[dtype] = min(least[dtype], time.perf_counter() - begun)
    return least[FLOAT32] / least[BF16]


def autocast(device: torch.device, dtype: str) -> Any:
    """Inside the block, products are in bfloat16 where `dtype` says so; norms, softmax, losses and
    all weights stay in float32."""
    if dtype != BF16:
        return nullcontext()
    return torch.autocast(device.type, torch.bfloat16)


def device_of(model: nn.Module) -> torch.device:
    """Where the weights of a model are."""
    return next(model.parameters()).device


def in_float64(x: Tensor) -> Tensor:
    """A tensor in float64, on the CPU where its own device knows none."""
    return (x.cpu() if x.device.type == "mps" else x).double()


def random_state(device: torch.device) -> Tensor:
    """The state of the generator that dropout draws from on a device."""
    if device.type == "cuda":
        return torch.cuda.get_rng_state(device)
    return torch.mps.get_rng_state() if device.type == "mps" else torch.get_rng_state()


def set_random_state(device: torch.device, state: Tensor) -> None:
    """Put back what `random_state` gave."""
    if device.type == "cuda":
        torch.cuda.set_rng_state(state, device)
    elif device.type == "mps":
        torch.mps.set_rng_state(state)
    else:
        torch.set_rng_state(state)


def out_of_memory(error: BaseException) -> bool:
    """Whether an error of PyTorch says that memory ran out, on a GPU or on a CPU."""
    said = str(error).lower()
    return isinstance(error, torch.OutOfMemoryError) or (
        isinstance(error, RuntimeError)
        and ("can't allocate memory" in said or "out of memory" in said)
    )


@contextmanager
def computing(device: torch.device, count: int | None) -> Iterator[None]:
    """Inside the block a trainer computes, on a CPU with `count` threads. InputError where memory
    runs out and nothing could be made smaller."""
    try:
        with threads(count):
            yield
    except RuntimeError as error:
        if not out_of_memory(error):
            raise
        raise InputError(
            f"training: not enough memory on {device}; give a smaller --length, another "
            "--train-device, or free memory"
        ) from None
