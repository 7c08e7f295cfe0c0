"""How hard the embedded commands are: words alone, and MiniLM cut to its lower layers.

    python benchmarks/commands_baselines.py TEACHER_DIR [--layers 6,3,1] [--seeds 0]

prints one line per model: accuracy on dev in percent. The figures in
src/canao/commands/README.md are from here.
"""

from __future__ import annotations

import argparse
import csv
import time
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import torch
import transformers
from sklearn.feature_extraction.text import TfidfVectorizer
from sklearn.linear_model import LogisticRegression
from sklearn.pipeline import make_pipeline
from transformers import AutoModelForSequenceClassification, AutoTokenizer

FOLDER = Path(__file__).resolve().parent.parent / "src" / "canao" / "commands"
BATCH, WARMUP = 32, 0.1

Split = tuple[list[str], list[str]]  # sentences, labels


def read(split: str) -> Split:
    with open(FOLDER / f"{split}.tsv", encoding="utf-8", newline="") as stream:
        rows = list(csv.DictReader(stream, delimiter="\t", quoting=csv.QUOTE_NONE))
    return [row["sentence"] for row in rows], [row["label"] for row in rows]


def bag_of_words(train: Split, dev: Split, longest: int) -> float:
    """Accuracy of logistic regression on TF-IDF of word n-grams up to `longest`."""
    words = TfidfVectorizer(ngram_range=(1, longest))
    model = make_pipeline(words, LogisticRegression(C=10.0, max_iter=1000))
    return float(model.fit(*train).score(*dev))


@dataclass(frozen=True)
class Recipe:
    """AdamW, rate `lr` after a tenth of warm-up, falling to 0."""

    epochs: int
    lr: float
    seed: int


def fine_tuned(teacher: str, layers: int, recipe: Recipe, train: Split, dev: Split) -> float:
    """Accuracy of the lower `layers` of `teacher` after fine-tuning on the labels alone."""
    torch.manual_seed(recipe.seed)
    tokenizer = AutoTokenizer.from_pretrained(teacher)
    labels = sorted(set(train[1]))
    model = AutoModelForSequenceClassification.from_pretrained(
        teacher, num_labels=len(labels), num_hidden_layers=layers
    )
    optimizer = torch.optim.AdamW(model.parameters(), lr=recipe.lr, weight_decay=0.01)
    steps = recipe.epochs * -(-len(train[0]) // BATCH)
    schedule = torch.optim.lr_scheduler.LambdaLR(
        optimizer, lambda step: min((step + 1) / (WARMUP * steps), (steps - step) / steps)
    )
    target = torch.tensor([labels.index(label) for label in train[1]])
    model.train()
    for _ in range(recipe.epochs):
        for batch in torch.randperm(len(train[0])).split(BATCH):
            inputs = tokenizer([train[0][i] for i in batch], padding=True, return_tensors="pt")
            model(**inputs, labels=target[batch]).loss.backward()
            torch.nn.utils.clip_grad_norm_(model.parameters(), 1.0)
            optimizer.step()
            schedule.step()
            optimizer.zero_grad()
    model.eval()
    right = 0
    with torch.no_grad():
        for start in range(0, len(dev[0]), BATCH):
            inputs = tokenizer(dev[0][start : start + BATCH], padding=True, return_tensors="pt")
            best = model(**inputs).logits.argmax(-1).tolist()
            truth = dev[1][start : start + BATCH]
            right += sum(labels[i] == label for i, label in zip(best, truth, strict=True))
    return right / len(dev[0])


def main(arguments: Sequence[str] | None = None) -> None:
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("teacher", help="Hugging Face directory of a BERT-like encoder")
    parser.add_argument("--layers", default="6,3,1", help="lower layers kept, one model each")
    parser.add_argument("--seeds", default="0")
    parser.add_argument("--epochs", type=int, default=6)
    parser.add_argument("--lr", type=float, default=1e-4)
    parser.add_argument("--threads", type=int, default=1)
    options = parser.parse_args(arguments)
    transformers.logging.set_verbosity_error()
    transformers.logging.disable_progress_bar()
    torch.set_num_threads(options.threads)
    train, dev = read("train"), read("dev")
    print(f"words              {100 * bag_of_words(train, dev, 1):5.1f}")
    print(f"words and pairs    {100 * bag_of_words(train, dev, 2):5.1f}")
    for layers in map(int, options.layers.split(",")):
        for seed in map(int, options.seeds.split(",")):
            start = time.perf_counter()
            recipe = Recipe(options.epochs, options.lr, seed)
            score = fine_tuned(options.teacher, layers, recipe, train, dev)
            seconds = time.perf_counter() - start
            print(
                f"{layers} layers, seed {seed}   {100 * score:5.1f}   {seconds:.0f} s", flush=True
            )


if __name__ == "__main__":
    main()
