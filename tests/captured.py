"""Captured graphs that tests share: torch.export takes over a second for the smallest model, and
most tests compile one of a few models that others compiled before them."""

from __future__ import annotations

import hashlib
from collections.abc import Callable
from typing import Any

import torch
from transformers import PreTrainedModel

from canao.defaults import LIMITS, Limits
from canao.graph.ir import Graph

# Of weights; larger models are captured anew, so that their weights are not kept in memory.
LARGEST_BYTES = 32 << 20
_PLAIN = (int, float, str, tuple, type(None))  # attributes of modules that may change a graph
Trace = Callable[..., Graph]


def remembering(trace: Trace) -> Trace:
    """`trace`, which captures models that are the same to the last weight once."""
    kept: dict[str, Graph] = {}

    def remembered(module: torch.nn.Module, max_length: int, limits: Limits = LIMITS) -> Graph:
        content = _content(module)
        if content is None:
            return trace(module, max_length, limits)
        key = f"{content} {max_length} {limits}"
        if key not in kept:
            graph = trace(module, max_length, limits)
            # The module's own weights may be changed after this.
            copies = {name: array.copy() for name, array in graph.constants.items()}
            for array in copies.values():
                array.flags.writeable = False
            kept[key] = graph.replace(constants=copies)
        return kept[key]

    return remembered


def _content(module: Any) -> str | None:
    """A hash of all that decides a model's graph; None for a module whose code is not that of
    Transformers as it is, or that is large."""
    parts = list(module.modules())
    if not isinstance(module, PreTrainedModel) or any("forward" in vars(m) for m in parts):
        return None
    if any(not type(m).__module__.startswith(("transformers.", "torch.")) for m in parts):
        return None
    tensors = [*module.named_parameters(remove_duplicate=False),
               *module.named_buffers(remove_duplicate=False)]  # fmt: skip
    if sum(t.nbytes for _, t in tensors) > LARGEST_BYTES:
        return None
    h = hashlib.sha256()
    config = module.config
    for part in (type(module), module, config.to_json_string(use_diff=False),
                 config._attn_implementation):  # fmt: skip
        h.update(f"{part}\0".encode())
    for part in parts:
        plain = {name: value for name, value in vars(part).items() if isinstance(value, _PLAIN)}
        h.update(f"{sorted((plain | {'training': None}).items())}\0".encode())
    seen: dict[int, int] = {}  # which of them are one tensor
    for name, tensor in tensors:
        same = seen.setdefault(id(tensor), len(seen))
        h.update(f"{name} {same} {tensor.dtype} {tuple(tensor.shape)}\0".encode())
        h.update(tensor.detach().contiguous().view(-1).view(torch.uint8).numpy().tobytes())
    return h.hexdigest()
