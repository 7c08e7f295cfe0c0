"""Fine-tuning of an encoder on words with labels, for precision_tasks.py: CANAO's own trainer takes
whole texts only. The loop, its recipe and its choice of the best epoch are the trainer's."""

from __future__ import annotations

import json
import random
from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch.nn import functional
from transformers import AutoModelForTokenClassification

from canao.accuracy.entities import TOKENS, entity_score
from canao.accuracy.tagged import Sentence, read_tagged
from canao.artifact.files import write_whole
from canao.model import hf
from canao.train.engine.batches import Batch, Encoded, evaluation_batches
from canao.train.engine.compute import device_of, training_device
from canao.train.engine.loop import Loop, TrainingSchedule
from canao.train.options import TrainProgress

_IGNORED = -100  # the label of tokens that no word begins with, as in Transformers
_BATCH = 32


@dataclass(frozen=True)
class Recipe:
    """How a model is fine-tuned, as in TrainOptions. `rounded`: all epochs are
    quantisation-aware."""

    epochs: int
    lr: float
    seed: int
    length: int
    rounded: bool = False
    device: str = "auto"
    dtype: str = "auto"


@dataclass(frozen=True)
class Tokens:
    """Sentences as token ids, with a label for each token: that of the word which it begins."""

    encoded: Encoded
    labels: tuple[np.ndarray, ...]
    tags: tuple[tuple[str, ...], ...]


def train(
    source: Path, folder: Path, out: Path, recipe: Recipe, most: int, progress: TrainProgress
) -> tuple[Path, int]:
    """Fine-tune the model in `source` on train.conll, or on `most` sentences of it, drawn by the
    seed (0: all); the epoch is chosen on dev.conll. Returns the directory `out` and the number of
    sentences. What is in `out` already, by the same recipe, stays."""
    held = read_tagged(folder / "train.conll")
    sentences: Sequence[Sentence] = held.dev
    if most:
        sentences = random.Random(recipe.seed).sample(held.dev, min(most, len(held.dev)))
    note = json.dumps(_facts(recipe) | {"sentences": len(sentences), "source": source.name})
    done = out.with_name(f"{out.name}.json")
    if done.is_file() and done.read_text("utf-8") == note and out.is_dir():
        return out, len(sentences)
    torch.manual_seed(recipe.seed)
    tokenizer = hf.load_tokenizer(source)
    names = dict(enumerate(sorted(held.tags, key=lambda tag: (tag != "O", tag))))
    order = {tag: i for i, tag in names.items()}
    device = training_device(recipe.device)
    model = AutoModelForTokenClassification.from_pretrained(
        source, id2label=names, label2id=order, dtype=torch.float32
    ).to(device)
    data = tokens(tokenizer, sentences, order, recipe.length)
    dev = tokens(tokenizer, read_tagged(folder / "dev.conll").dev, order, recipe.length)
    loop = Loop(
        model, data.encoded,
        TrainingSchedule(epochs=recipe.epochs, batch=_BATCH, lr=recipe.lr, seed=recipe.seed,
                         dtype=recipe.dtype,
                         **({"quantized": recipe.epochs} if recipe.rounded else {})),
        loss_of(model, data), evaluate=lambda: f1_of(model, dev, names), **_rounding(model, recipe),
    )  # fmt: skip
    loop.run(lambda step, total, said: progress(out.parent.name, step, total, said))
    hf.save_model(model, tokenizer, out)
    write_whole(done, note)
    return out, len(sentences)


def _facts(recipe: Recipe) -> dict[str, Any]:
    """What the trained weights depend on: all but where and in which numbers they are computed."""
    return {k: v for k, v in asdict(recipe).items() if k not in ("device", "dtype")}


def _rounding(model: Any, recipe: Recipe) -> dict[str, Any]:
    """What is rounded as the library will, if anything is."""
    if not recipe.rounded:
        return {}
    from canao.train.engine.fake_quantization import FakeQuantization

    return {"rounding": FakeQuantization.of(model, model.config.max_position_embeddings)}


def tokens(
    tokenizer: Any, sentences: Sequence[Sentence], order: dict[str, int], length: int
) -> Tokens:
    """Sentences, cut to `length` tokens, read as a compiled library reads them: as one text."""
    ids, types, labels = [], [], []
    for sentence in sentences:
        found = tokenizer(
            sentence.text, truncation=True, max_length=length, return_offsets_mapping=True
        )
        begins = dict(zip(sentence.starts(), sentence.tags, strict=True))
        row = np.full(len(found["input_ids"]), _IGNORED, np.int64)
        for i, (start, end) in enumerate(found["offset_mapping"]):
            if start < end and start in begins:
                row[i] = order[begins[start]]
        ids.append(np.array(found["input_ids"], np.int32))
        types.append(np.zeros(len(row), np.int8))
        labels.append(row)
    encoded = Encoded(tuple(ids), tuple(types), np.zeros(len(ids)), tokenizer.pad_token_id)
    return Tokens(encoded, tuple(labels), tuple(s.tags for s in sentences))


def loss_of(model: Any, data: Tokens) -> Callable[[Batch], torch.Tensor]:
    """Cross-entropy of the first tokens of words."""

    def loss(batch: Batch) -> torch.Tensor:
        wanted = torch.full(batch.ids.shape, _IGNORED)
        for row, i in enumerate(batch.index):
            wanted[row, : len(data.labels[i])] = torch.from_numpy(data.labels[i])
        logits = model(**batch.inputs).logits
        return functional.cross_entropy(
            logits.flatten(0, 1), wanted.flatten().to(logits.device), ignore_index=_IGNORED
        )

    return loss


def f1_of(model: Any, data: Tokens, names: dict[int, str]) -> float:
    """F1 of entities; words beyond the cut are outside of all."""
    found: list[list[str]] = [[] for _ in data.tags]
    with torch.inference_mode():
        for batch in evaluation_batches(data.encoded, _BATCH, device_of(model)):
            best = model(**batch.inputs).logits.argmax(-1).cpu().numpy()
            for row, i in enumerate(batch.index):
                given = data.labels[i]
                kept = best[row, : len(given)][given != _IGNORED]
                found[i] = [names[int(place)] for place in kept]
    filled = [[*got, *["O"] * (len(want) - len(got))]
              for want, got in zip(data.tags, found, strict=True)]  # fmt: skip
    return entity_score(data.tags, filled, tuple(names.values())).value


__all__ = ["TOKENS", "Recipe", "train"]
