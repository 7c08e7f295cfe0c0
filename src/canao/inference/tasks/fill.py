"""The most probable tokens for each mask in a text."""

from __future__ import annotations

from typing import Any

import numpy as np

from canao.errors import InputError
from canao.inference.tasks.classify import scores_of
from canao.inference.tasks.results import Filling


def mask_id(tokenizer: Any, mask: str | None) -> int:
    """The id of the mask token, which the manifest names."""
    found = tokenizer.token_to_id(mask) if mask else None
    if found is None:
        raise InputError("the tokenizer has no mask token; name it in its tokenizer_config.json")
    return int(found)


def require_mask(ids: Any, tokenizer: Any, mask: str | None) -> None:
    """InputError unless a text contains a mask."""
    if mask_id(tokenizer, mask) not in ids:
        raise InputError(f"the text has no {mask}; put one where a word is to be filled in")


def fill_masks(
    window: Any, logits: np.ndarray, tokenizer: Any, mask: str, top: int,
    activation: str | None = None,
) -> list[list[Filling]]:  # fmt: skip
    """For each mask, in order, the `top` most probable tokens."""
    ids = np.array(window.ids)
    rows = scores_of(logits.reshape(len(ids), -1), activation)
    places = np.flatnonzero(ids == mask_id(tokenizer, mask))
    return [_fillings(ids, int(at), rows[at], tokenizer, top) for at in places]


def _fillings(
    ids: np.ndarray, at: int, scores: np.ndarray, tokenizer: Any, top: int
) -> list[Filling]:
    out = []
    for token in np.argsort(-scores, kind="stable")[:top]:
        filled = ids.copy()
        filled[at] = token
        out.append(
            Filling(
                float(scores[token]),
                int(token),
                tokenizer.decode([int(token)], skip_special_tokens=False).strip(),
                tokenizer.decode(filled.tolist(), skip_special_tokens=True),
            )
        )
    return out
