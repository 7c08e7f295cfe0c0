"""Texts that Sentence-Transformers puts before a text, and its lower case, at inference."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from canao.errors import InputError


def reading(manifest: Mapping[str, Any]) -> Mapping[str, Any]:
    """What a manifest says of the texts of a sentence embedding or CrossEncoder; {} for others."""
    return manifest.get("pooling") or manifest.get("cross_encoder") or {}


def chosen_prompt(said: Mapping[str, Any], name: str | None) -> str:
    """The prompt called `name`; without a name the default one, and none for "".

    InputError for a name that the model does not have.
    """
    if name is None:
        return str(said.get("prompt") or "")
    prompts = said.get("prompts") or {}
    if name and name not in prompts:
        known = ", ".join(sorted(prompts)) or "none"
        raise InputError(f"the model has no prompt '{name}'; its prompts: {known}")
    return str(prompts[name]) if name else ""


def special_tokens(tokenizer: Any) -> frozenset[int]:
    """The ids of a tokenizer's special tokens."""
    added = tokenizer.get_added_tokens_decoder()
    return frozenset(i for i, token in added.items() if token.special)


def in_lower_case(tokenizer: Any) -> None:
    """Make a tokenizer put texts in lower case first, special tokens excepted, as
    Sentence-Transformers does."""
    from tokenizers import normalizers

    own = tokenizer.normalizer
    parts: Any = own if isinstance(own, normalizers.Sequence) else ()
    if isinstance(own, normalizers.Lowercase) or any(
        isinstance(part, normalizers.Lowercase) for part in parts
    ):
        return
    lower = normalizers.Lowercase()
    tokenizer.normalizer = lower if own is None else normalizers.Sequence([lower, own])
