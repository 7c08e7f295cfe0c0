"""Small models saved by Sentence-Transformers itself, and what it makes of texts: the oracle."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import torch
from sentence_transformers import SentenceTransformer
from sentence_transformers.sentence_transformer import modules

from tests.heads import save_model

WIDTH = 48


def transformer(folder: Path, **settings: Any) -> modules.Transformer:
    """A one-layer BERT with its tokenizer, as the first module."""
    save_model("Model", folder / "plain")
    return modules.Transformer(str(folder / "plain"), **settings)


def saved(parts: list[Any], folder: Path, **settings: Any) -> SentenceTransformer:
    """The model as it is read back from `folder`, which is what CANAO has to agree with."""
    torch.manual_seed(3)
    SentenceTransformer(modules=parts, device="cpu", **settings).save(str(folder))
    return SentenceTransformer(str(folder), device="cpu", local_files_only=True)


def encoded(model: SentenceTransformer, text: str, **options: Any) -> np.ndarray:
    vector: np.ndarray = model.encode(text, show_progress_bar=False, **options)
    return vector
