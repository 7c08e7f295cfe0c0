"""Whole words: those that a tokenizer has one token for, where they stand in texts, and which of
them may stand for which."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass

import torch
from torch import Tensor
from transformers import PreTrainedTokenizerBase

from canao.errors import InputError

CANDIDATES = 15  # for each word, as TinyBERT has it
_CHUNK = 4096  # texts given to the tokenizer at a time
# What may stand beside a word and is no part of it. An apostrophe is: what it stands beside may be
# the rest of a word, as in "don't" and "Dominick 's".
_BESIDE = frozenset('.,;:!?()[]{}"“”«»…')


@dataclass(frozen=True)
class Spot:
    """A whole word in a text: text[start:end], and its token."""

    start: int
    end: int
    token: int


class WholeWords:
    """The words of letters alone that a tokenizer has one token for.

    What is no word by itself is none: a piece of words, a number, and a word of which the tokenizer
    makes several tokens after a space.
    """

    def __init__(self, tokenizer: PreTrainedTokenizerBase, place: str) -> None:
        """`place` names the tokenizer's directory in messages; InputError if the tokenizer cannot
        say where in a text its tokens are."""
        if not tokenizer.is_fast:
            raise InputError(
                f"{place}: its tokenizer does not say where in a text a token is, which --augment "
                "needs; save it with a tokenizer.json"
            )
        self.tokenizer = tokenizer
        special = set(tokenizer.all_special_ids)
        tokens = [i for i in range(len(tokenizer)) if i not in special]
        texts = [tokenizer.decode([i]).strip() for i in tokens]
        pairs = [(i, text) for i, text in zip(tokens, texts, strict=True) if text.isalpha()]
        alone = _encoded(tokenizer, [f" {text}" for _, text in pairs])
        self._hold([p for p, ids in zip(pairs, alone, strict=True) if ids == [p[0]]])

    def limit(self, tokenizer: PreTrainedTokenizerBase) -> None:
        """Leave out the words of which another tokenizer makes several tokens, or knows none."""
        pairs = list(zip(self.tokens, self.texts, strict=True))
        alone = _encoded(tokenizer, [f" {text}" for text in self.texts])
        unknown = [tokenizer.unk_token_id]
        self._hold([p for p, ids in zip(pairs, alone, strict=True)
                    if len(ids) == 1 and ids != unknown])  # fmt: skip

    def _hold(self, kept: Sequence[tuple[int, str]]) -> None:
        self.tokens = [token for token, _ in kept]
        self.texts = [text for _, text in kept]
        self.place = {token: i for i, token in enumerate(self.tokens)}
        folds: dict[str, int] = {}
        self._fold = torch.tensor([folds.setdefault(t.casefold(), len(folds)) for t in self.texts])
        self._case = torch.tensor([_CASES.index(_case(t)) for t in self.texts])

    def find(self, texts: Sequence[str]) -> list[list[Spot]]:
        """The whole words of each text that stand between spaces or marks of punctuation."""
        found: list[list[Spot]] = []
        for start in range(0, len(texts), _CHUNK):
            part = list(texts[start : start + _CHUNK])
            out = self.tokenizer(part, add_special_tokens=False, return_offsets_mapping=True)
            ids, offsets = out["input_ids"], out["offset_mapping"]
            for i, text in enumerate(part):
                found.append(self._spots(text, out.word_ids(i), ids[i], offsets[i]))
        return found

    def nearest(self, scores: Tensor, tokens: Sequence[int]) -> list[tuple[str, ...]]:
        """For each of `tokens`, which are whole words, the words with the highest scores that may
        stand for it, the best first: of the same case, and not itself in another case.

        scores  [tokens, whole words]
        """
        own = torch.tensor([self.place[token] for token in tokens], dtype=torch.long)
        fits = self._case == self._case[own, None]
        fits &= self._fold != self._fold[own, None]
        best = scores.cpu().masked_fill(~fits, -torch.inf).topk(min(CANDIDATES, len(self.texts)))
        return [
            tuple(self.texts[i] for i, value in zip(row, values, strict=True) if value > -torch.inf)
            for row, values in zip(best.indices.tolist(), best.values.tolist(), strict=True)
        ]

    def written(self, text: str, spot: Spot, word: str) -> str:
        """`word` with the capitals that the text has there, where the tokenizer knows none."""
        there = text[spot.start : spot.end]
        if _case(there) == _case(self.texts[self.place[spot.token]]):
            return word
        change: Callable[[str], str] = {"title": str.capitalize, "upper": str.upper}.get(
            _case(there), str
        )
        return change(word)

    def _spots(
        self, text: str, words: Sequence[int | None], ids: Sequence[int],
        offsets: Sequence[tuple[int, int]],
    ) -> list[Spot]:  # fmt: skip
        spots = []
        for i, (word, token) in enumerate(zip(words, ids, strict=True)):
            beside = {words[j] for j in (i - 1, i + 1) if 0 <= j < len(words)}
            if word is None or word in beside or token not in self.place:
                continue
            start, end = offsets[i]
            # Some tokenizers count the space before a word to it.
            start += len(text[start:end]) - len(text[start:end].lstrip())
            if text[start:end].isalpha() and _ends(text, start - 1, -1) and _ends(text, end, 1):
                spots.append(Spot(start, end, token))
        return spots


def _encoded(tokenizer: PreTrainedTokenizerBase, texts: list[str]) -> Iterable[list[int]]:
    for start in range(0, len(texts), _CHUNK):
        part = texts[start : start + _CHUNK]
        yield from tokenizer(part, add_special_tokens=False)["input_ids"]


_CASES = ("lower", "title", "upper", "other")


def _case(word: str) -> str:
    if word.islower():
        return "lower"
    if word.istitle():
        return "title"
    return "upper" if word.isupper() else "other"


def _ends(text: str, at: int, step: int) -> bool:
    """Whether a word ends where `at` is the next place in the direction of `step`: at a space, the
    text's end, or punctuation after which no word goes on, as one does in "e.g."."""
    near, far = (text[i] if 0 <= i < len(text) else " " for i in (at, at + step))
    return near.isspace() or (near in _BESIDE and not far.isalnum())
