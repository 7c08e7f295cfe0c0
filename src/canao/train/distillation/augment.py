"""Altered copies of training texts, in which words were replaced by others that may stand there
(TinyBERT, Jiao et al. 2020, section 3.2 and algorithm 1).

Replacements are neighbours in a table of word embeddings, or what a masked language model expects.
Copies have no labels: what they mean now, the teacher says.
"""

from __future__ import annotations

import random
from collections.abc import Hashable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any, Protocol

import torch
from torch import Tensor
from torch.nn import functional

from canao.errors import InputError
from canao.model.directory.loaded_model import load_directory
from canao.model.directory.task import describe_head
from canao.model.hf import load_tokenizer
from canao.model.inventory.inventory import Inventory
from canao.train.data import Example, Label
from canao.train.distillation.words import Spot, WholeWords
from canao.train.engine.loop import Progress

_SHARE = 0.4  # of a text's whole words that are replaced in a copy, on average: TinyBERT's
_ROWS = 512  # words whose neighbours are looked for at a time
_LOGITS = 1 << 27  # that a masked language model makes at a time, at most
_AROUND = 8
_LONGEST = 512


class Replacements(Protocol):
    """Where replacements come from. `words` are those that it can replace."""

    words: WholeWords

    def key(self, text: str, spot: Spot) -> Hashable:
        """What the words that may stand there depend on."""
        ...

    def candidates(self, keys: Sequence[Any], progress: Progress) -> list[tuple[str, ...]]:
        """For each key, the words that may stand there."""
        ...


class Neighbours:
    """The words whose embeddings are nearest to a word's, by the cosine of their angle.

    table  [vocabulary, width], the rows of `words`' tokenizer
    """

    def __init__(self, words: WholeWords, table: Tensor) -> None:
        rows = table.detach().float().cpu()[words.tokens]
        self.words, self.table = words, functional.normalize(rows, dim=1)

    def key(self, text: str, spot: Spot) -> int:
        return spot.token

    def candidates(self, keys: Sequence[int], progress: Progress) -> list[tuple[str, ...]]:
        found: list[tuple[str, ...]] = []
        for start in range(0, len(keys), _ROWS):
            part = keys[start : start + _ROWS]
            own = self.table[[self.words.place[token] for token in part]]
            found += self.words.nearest(own @ self.table.T, part)
            progress(len(found), len(keys), "words")
        return found


class MaskedModel:
    """What a masked language model expects in a word's place, which it does not see.

    InputError for a directory without such a model, or with a tokenizer that has no mask.
    """

    def __init__(self, directory: Path, device: torch.device) -> None:
        self.directory, self.device = directory, device
        inventory = Inventory(directory)
        loaded = load_directory(directory, inventory)
        if describe_head(loaded)["task"] != "fill-mask":
            raise InputError(
                f"{directory}: {loaded.kind} predicts no masked words; give --augment-model a "
                "masked language model, such as a BertForMaskedLM"
            )
        self.model, self.length = loaded.module, min(loaded.max_length, _LONGEST)
        tokenizer = load_tokenizer(directory, inventory)
        if tokenizer.mask_token_id is None:
            raise InputError(f"{directory}: its tokenizer has no mask token; name one in its files")
        if len(tokenizer) > loaded.config.vocab_size:
            raise InputError(
                f"{directory}: the tokenizer has {len(tokenizer)} tokens, the model "
                f"{loaded.config.vocab_size}; they do not belong together"
            )
        self.words = WholeWords(tokenizer, str(directory))

    def key(self, text: str, spot: Spot) -> tuple[str, Spot]:
        return text, spot

    def candidates(
        self, keys: Sequence[tuple[str, Spot]], progress: Progress
    ) -> list[tuple[str, ...]]:
        found: list[tuple[str, ...]] = [()] * len(keys)
        # The longest first, so that a lack of memory shows at once.
        order = sorted(range(len(keys)), key=lambda i: (-len(keys[i][0]), keys[i][0], i))
        self.model.to(self.device)
        done = 0
        while done < len(order):
            part = order[done : done + self._batch(keys[order[done]][0])]
            for i, words in zip(part, self._expected([keys[i] for i in part]), strict=True):
                found[i] = words
            done += len(part)
            progress(done, len(order), "masked words")
        self.model.to("cpu")
        return found

    def _batch(self, longest: str) -> int:
        """How many texts go at a time, if none is longer: no tokenizer makes more tokens of a text
        than it has bytes, beside those that it puts around it."""
        tokens = min(self.length, len(longest.encode()) + _AROUND)
        return max(1, _LOGITS // (tokens * self.model.config.vocab_size))

    def _expected(self, keys: Sequence[tuple[str, Spot]]) -> Iterator[tuple[str, ...]]:
        """For each text and word; () where the text is cut off before the word."""
        tokenizer = self.words.tokenizer
        masked = [
            text[: spot.start] + tokenizer.mask_token + text[spot.end :] for text, spot in keys
        ]
        longest = min(self.length, tokenizer.model_max_length)
        batch = tokenizer(
            masked, truncation=True, max_length=longest, padding=True, return_tensors="pt"
        )
        ids = batch["input_ids"]
        places = [batch.char_to_token(i, spot.start) for i, (_, spot) in enumerate(keys)]
        rows = [i for i, at in enumerate(places)
                if at is not None and ids[i, at] == tokenizer.mask_token_id]  # fmt: skip
        with torch.inference_mode():
            logits = self.model(**batch.to(self.device)).logits
        here = logits[rows, [places[i] for i in rows]].float()[:, self.words.tokens]
        best = dict(zip(rows, self.words.nearest(here, [keys[i][1].token for i in rows]),
                        strict=True))  # fmt: skip
        return (best.get(i, ()) for i in range(len(keys)))


def altered(
    examples: Sequence[Example], source: Replacements, copies: int, seed: int, no_label: Label,
    progress: Progress,
) -> tuple[Example, ...]:  # fmt: skip
    """At most `copies` altered copies of each example, the same for the same seed.

    Each has about two of five of its whole words replaced, at least one, in both texts of a pair;
    copies that are equal are one. InputError if no text has a word that could be replaced.
    """
    texts = [[e.text] if e.pair is None else [e.text, e.pair] for e in examples]
    flat = iter(source.words.find([text for both in texts for text in both]))
    places = [[(side, spot) for side in range(len(both)) for spot in next(flat)] for both in texts]
    keys = dict.fromkeys(
        source.key(texts[i][side], spot)
        for i, there in enumerate(places)
        for copy in range(copies)
        for side, spot in _picked(there, seed, i, copy)
    )
    found = dict(zip(keys, source.candidates(list(keys), progress), strict=True))
    made = []
    for i, both in enumerate(texts):
        seen = {tuple(both)}
        for copy in range(copies):
            draw = random.Random(f"{seed} {i} {copy} words")
            new = _replaced(both, _picked(places[i], seed, i, copy), source, found, draw)
            if new not in seen:
                seen.add(new)
                made.append(Example(new[0], new[1] if len(new) > 1 else None, no_label))
    if not made:
        raise InputError(
            "training: no training text has a word that --augment could replace, which are words "
            "of letters between spaces that the tokenizer has one token for; leave it out"
        )
    return tuple(made)


def _picked(
    places: Sequence[tuple[int, Spot]], seed: int, example: int, copy: int
) -> list[tuple[int, Spot]]:
    """The words that a copy replaces: each with a probability of `_SHARE`, one at least."""
    draw = random.Random(f"{seed} {example} {copy}")
    picked = [place for place in places if draw.random() < _SHARE]
    return picked or draw.sample(list(places), min(1, len(places)))


def _replaced(
    texts: Sequence[str], picked: Sequence[tuple[int, Spot]], source: Replacements,
    found: Mapping[Hashable, tuple[str, ...]], draw: random.Random,
) -> tuple[str, ...]:  # fmt: skip
    new = list(texts)
    for side, spot in reversed(picked):  # from the end, so that places before it stay
        words = found[source.key(texts[side], spot)]
        if words:
            word = source.words.written(texts[side], spot, draw.choice(words))
            new[side] = new[side][: spot.start] + word + new[side][spot.end :]
    return tuple(new)
