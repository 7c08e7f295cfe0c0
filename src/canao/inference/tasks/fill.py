"""The most probable tokens for each mask in a text."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from typing import Any, ClassVar

import numpy as np

from canao.errors import InputError
from canao.inference.tasks.classify import scores_of
from canao.inference.tasks.prepared import Prepared
from canao.inference.tasks.results import Filling
from canao.inference.tasks.task import OF_TOKENS, Manifest, Option, Outputs, Task, count, first_of


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


class Fillings(Task):
    """For each mask of a text, a list of Filling."""

    name = "fill-mask"
    options: ClassVar[Mapping[str, Option]] = {"top": count(5)}
    per, scored = OF_TOKENS, True

    def require(self, prepared: Prepared, manifest: Manifest, tokenizer: Any) -> None:
        require_mask(prepared.windows[0].ids, tokenizer, _mask(manifest))

    def interpret(
        self, prepared: Prepared, outputs: Sequence[Outputs], manifest: Manifest, tokenizer: Any
    ) -> list[list[Filling]]:
        return fill_masks(
            prepared.windows[0], first_of(outputs[0]), tokenizer, _mask(manifest) or "",
            prepared.options["top"], manifest.get("activation"),
        )  # fmt: skip

    def form(self, prepared: Prepared, result: Any) -> dict[str, Any]:
        return {"masks": [[filling.to_dict() for filling in mask] for mask in result]}

    def lines(self, result: Any, options: Mapping[str, Any]) -> Iterator[str]:
        for i, mask in enumerate(result, 1):
            if len(result) > 1:
                yield f"mask {i}"
            for filling in mask:
                yield f"{filling.score:8.4f}  {filling.token}"


def _mask(manifest: Manifest) -> str | None:
    return (manifest.get("tokenizer") or {}).get("mask")
