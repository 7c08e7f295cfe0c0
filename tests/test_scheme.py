"""Schemes of token labels: which is recognised, and what entities its sequences of labels mean."""

from __future__ import annotations

import random
from types import SimpleNamespace

import numpy as np
import pytest
from transformers import TokenClassificationPipeline

from canao.inference.tasks.entities import find_entities
from canao.inference.tasks.scheme import scheme_of

PEOPLE = ("PER", "LOC")


def labels(letters: str, sign: str = "-", outside: str = "O") -> list[str]:
    return [outside, *(f"{letter}{sign}{kind}" for kind in PEOPLE for letter in letters)]


@pytest.mark.parametrize(
    ("names", "scheme", "outside"),
    [
        (labels("BI"), "IOB", "O"),
        (labels("I"), "IO", "O"),
        (labels("BIES"), "BIOES", "O"),
        (labels("BILU"), "BILOU", "O"),
        (labels("BMES"), "BMES", "O"),
        (labels("IE"), "IOE", "O"),
        (labels("BMEW"), "BIOES, BILOU or BMES", "O"),
        (labels("BIES", "_"), "BIOES", "O"),
        (labels("BI", outside="OUT"), "IOB", "OUT"),
        (labels("BIES", outside="Other"), "BIOES", "Other"),
        (labels("BIES", outside="LABEL_0"), "BIOES", "LABEL_0"),
        (["O", "PER-B", "PER-I", "LOC-B", "LOC-I"], "IOB", "O"),
        (["B", "I", "O"], "IOB", "O"),
        (["B", "M", "E", "S"], "BMES", ""),
        (["O", "PER", "LOC"], "", "O"),
        (["out", "PER", "LOC"], "", "out"),
        (["NOUN", "VERB", "X"], "", ""),
        (["LABEL_0", "LABEL_1"], "", ""),
        (["S-curve", "E-mail", "O"], "", "O"),
        (["O", "X", "B-PER", "I-PER", "[CLS]"], "IOB", "O"),
    ],
)
def test_schemes(names: list[str], scheme: str, outside: str) -> None:
    found = scheme_of(names)
    assert (found.name, found.outside) == (scheme, frozenset([outside] if outside else []))
    assert (f"outside: {outside or 'no label'}") in str(found)


def found(names: list[str], tags: list[str], **options: object) -> list[tuple[str, int, int]]:
    """The entities of words `w w w ...` with these labels."""
    text = " ".join("w" for _ in tags)
    window = SimpleNamespace(
        ids=list(range(len(tags))), special_tokens_mask=[0] * len(tags), tokens=["w"] * len(tags),
        word_ids=list(range(len(tags))), offsets=[(2 * i, 2 * i + 1) for i in range(len(tags))],
    )  # fmt: skip
    logits = np.array([[9.0 * (name == tag) for name in names] for tag in tags], np.float32)
    entities = find_entities(text, window, logits, {"labels": names}, "word", **options)
    return [(e.label, e.start // 2, e.end // 2 + 1) for e in entities]


def by_transformers(names: list[str], tags: list[str]) -> list[tuple[str, int, int]]:
    pipeline = TokenClassificationPipeline.__new__(TokenClassificationPipeline)
    pipeline.tokenizer = SimpleNamespace(convert_tokens_to_string=" ".join)
    pieces = [{"entity": tag, "score": 1.0, "word": "w", "start": i, "end": i + 1}
              for i, tag in enumerate(tags)]  # fmt: skip
    return [(g["entity_group"], g["start"], g["end"]) for g in pipeline.group_entities(pieces)
            if g["entity_group"] != "O"]  # fmt: skip


def by_conlleval(tags: list[str]) -> list[tuple[str, int, int]]:
    """The chunks that conlleval.pl and seqeval find, by their rules for each pair of tags; of their
    letters B, I, E and S."""
    chunks, begin = [], 0
    split = [(t[0], t[2:]) for t in [*tags, "O"]]
    before = ("O", "")
    for i, (tag, kind) in enumerate(split):
        last, old = before
        ends = last in "ES" or (last in "BI" and tag in "BSO") or (last != "O" and old != kind)
        starts = tag in "BS" or (last in "ESO" and tag in "EI") or (tag != "O" and old != kind)
        if ends and last != "O":
            chunks.append((old, begin, i))
        if starts and tag != "O":
            begin = i
        before = (tag, kind)
    return chunks


@pytest.mark.parametrize("letters", ("BI", "I"))
def test_iob_is_read_as_transformers_reads_it(letters: str) -> None:
    """IOB2, IOB1, where entities begin with I, and sequences that follow no rule."""
    names, dice = labels(letters), random.Random(3)
    for _ in range(300):
        tags = dice.choices(names, k=dice.randint(1, 12))
        assert found(names, tags) == by_transformers(names, tags)
        assert found(names, tags) == by_conlleval(tags)
    for plain in (["O", "PER", "LOC"], ["NOUN", "VERB"]):
        for _ in range(50):
            tags = dice.choices(plain, k=8)
            assert found(plain, tags) == by_transformers(plain, tags)


@pytest.mark.parametrize(("letters", "sign"), [("BIES", "-"), ("BILU", "-"), ("BMES", "_"),
                                               ("IE", "-"), ("BMEW", "-")])  # fmt: skip
def test_other_schemes_are_read_as_scorers_read_them(letters: str, sign: str) -> None:
    names, dice = labels(letters, sign), random.Random(5)
    same = {"M": "I", "L": "E", "U": "S", "W": "S"}
    for _ in range(300):
        tags = dice.choices(names, k=dice.randint(1, 12))
        plain = [t if t == "O" else f"{same.get(t[0], t[0])}-{t[2:]}" for t in tags]
        assert found(names, tags) == by_conlleval(plain)


def test_what_is_left_out() -> None:
    names = labels("BI", outside="OUT")
    tags = ["OUT", "B-PER", "I-PER", "OUT", "B-LOC"]
    assert found(names, tags) == [("PER", 1, 3), ("LOC", 4, 5)]
    assert found(names, tags, ignored=["OUT", "LOC"]) == [("PER", 1, 3)]
    assert found(names, tags, ignored=[])[0] == ("OUT", 0, 1)
    assert found(["B", "I", "O"], ["B", "I", "O", "B", "B"]) == [
        ("entity", 0, 2), ("entity", 3, 4), ("entity", 4, 5)
    ]  # fmt: skip
