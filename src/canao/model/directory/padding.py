"""Whether a model counts positions from the first token that is not padding.

A model that does (RoBERTa, relative positions) computes the same for a sequence with padding at its
start as for the sequence alone, so that the padding may be removed. In other models the positions
would shift. The model is run to find out, which also works for families that nobody has listed.
"""

from __future__ import annotations

import inspect
from typing import Any

from canao.model.directory.loaded_model import LoadedModel

_TOKENS, _PADS = 6, 3
_CLOSE = 1e-4  # of the largest value


def ignores_left_padding(loaded: LoadedModel) -> bool:
    """Whether the first output is the same with and without padding at the start."""
    pad = getattr(loaded.config, "pad_token_id", None)
    vocabulary = getattr(loaded.config, "vocab_size", None)
    forward = getattr(loaded.module, "forward", None)
    if pad is None or not vocabulary or forward is None:
        return False
    if "attention_mask" not in inspect.signature(forward).parameters:
        return False
    import torch

    others = torch.tensor([i for i in range(min(vocabulary, 99)) if i != pad])
    if not len(others):
        return False
    ids = others[torch.arange(_TOKENS) * 7 % len(others)][None]
    padded = torch.cat([torch.full((1, _PADS), pad), ids], 1)
    mask = (torch.arange(_PADS + _TOKENS) >= _PADS).long()[None]
    with torch.no_grad():
        try:
            alone = _first(loaded.module(input_ids=ids, attention_mask=torch.ones_like(ids)))
            whole = _first(loaded.module(input_ids=padded, attention_mask=mask))
        except (RuntimeError, ValueError, TypeError, IndexError):
            return False
    if whole.dim() > 1 and whole.shape[1] == _PADS + _TOKENS:
        whole = whole[:, _PADS:]
    if alone.shape != whole.shape:
        return False
    return bool((alone - whole).abs().max() <= _CLOSE * alone.abs().max())


def _first(result: Any) -> Any:
    return next(iter(result.values())) if hasattr(result, "values") else result[0]
