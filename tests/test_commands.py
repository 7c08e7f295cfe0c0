"""The embedded data set: what its README promises, and that it is what its generator writes."""

from __future__ import annotations

import csv
import re
import sys
from collections import Counter
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parent.parent
FOLDER = ROOT / "src" / "canao" / "commands"
sys.path.insert(0, str(ROOT / "tools"))

import make_commands as generator  # noqa: E402

PHRASINGS = generator.read_sections(ROOT / "tools" / "commands" / "intents.txt")
SLOTS = generator.read_sections(ROOT / "tools" / "commands" / "slots.txt")
LABELS = sorted({label for label, _ in PHRASINGS})


def rows(split: str) -> list[tuple[str, str]]:
    with open(FOLDER / f"{split}.tsv", encoding="utf-8", newline="") as stream:
        reader = csv.DictReader(stream, delimiter="\t", quoting=csv.QUOTE_NONE)
        return [(row["sentence"], row["label"]) for row in reader]


def pattern(phrasing: str) -> str:
    """A regular expression for everything that a phrasing can give, with any split's fillers."""
    text = re.sub(r"\[([^][]*)\] *", r"{(\1) }", phrasing.lstrip("! "))
    text = re.sub(r" \{\(([^{}]*)\) \}$", r"{ (\1)}", text)  # an optional part at the end
    expression = ""
    for token in re.split(r"(<[a-z_]+>|[(){}|])", text):
        if token.startswith("<"):
            fillers = [f for (name, _), of in SLOTS.items() if name == token[1:-1] for f in of]
            expression += f"(?:{'|'.join(map(pattern, fillers))})"
        elif token in ("(", "{"):
            expression += "(?:"
        elif token == "}":
            expression += ")?"
        elif token in (")", "|"):
            expression += token
        else:
            expression += re.escape(token)
    return expression


@pytest.mark.parametrize("split", ["train", "dev"])
def test_committed_files_are_what_the_generator_writes(split: str, tmp_path: Path) -> None:
    generator.main([str(tmp_path)])
    assert (tmp_path / f"{split}.tsv").read_bytes() == (FOLDER / f"{split}.tsv").read_bytes(), (
        "run `python tools/make_commands.py` and commit what it writes"
    )


def test_counts_and_balance() -> None:
    assert len(LABELS) == 20
    for split, count in (("train", 120), ("dev", 30)):
        labels = Counter(label for _, label in rows(split))
        assert labels == dict.fromkeys(LABELS, count)


@pytest.mark.parametrize("split", ["train", "dev"])
def test_lines_are_plain_lower_case_words(split: str) -> None:
    lines = (FOLDER / f"{split}.tsv").read_bytes().decode("ascii").split("\n")
    assert lines[0] == "sentence\tlabel" and lines[-1] == ""
    word = re.compile(r"[a-z]+(?:'[a-z]*)?")
    for line in lines[1:-1]:
        sentence, label = line.split("\t")
        assert label in LABELS
        assert all(word.fullmatch(w) for w in sentence.split(" ")), line


def test_no_utterance_twice_in_either_split() -> None:
    sentences = [sentence for split in ("train", "dev") for sentence, _ in rows(split)]
    assert [s for s, n in Counter(sentences).items() if n > 1] == []


def test_enough_phrasings_and_none_in_both_splits() -> None:
    for label in LABELS:
        train, dev = PHRASINGS[label, "train"], PHRASINGS[label, "dev"]
        assert len(set(train)) == len(train) >= 24 and len(set(dev)) == len(dev) >= 12
    train, dev = (
        {line.lstrip("! ") for (_, of), lines in PHRASINGS.items() if of == split for line in lines}
        for split in ("train", "dev")
    )
    assert not train & dev


def test_no_training_phrasing_gives_a_dev_utterance() -> None:
    dev = [row.core for row in generator.generate("dev")]
    train = [line for (_, split), lines in PHRASINGS.items() if split == "train" for line in lines]
    leaks = [
        (phrasing, core)
        for phrasing in train
        for core in filter(re.compile(pattern(phrasing)).fullmatch, dev)
    ]
    assert leaks == []


def test_leak_pattern_accepts_every_training_utterance() -> None:
    """Guards the test above: the patterns must cover what the phrasings really give."""
    every = re.compile("|".join(
        f"(?:{pattern(line)})"
        for (_, split), lines in PHRASINGS.items() if split == "train" for line in lines
    ))  # fmt: skip
    missed = [row.core for row in generator.generate("train") if not every.fullmatch(row.core)]
    assert missed == []


def test_every_slot_is_used_and_every_used_slot_exists() -> None:
    lines = [line for of in (*PHRASINGS.values(), *SLOTS.values()) for line in of]
    used = {name for line in lines for name in re.findall(r"<([a-z_]+)>", line)}
    assert used == {name for name, _ in SLOTS}


def test_readme_counts_phrasings_right() -> None:
    readme = (FOLDER / "README.md").read_text(encoding="utf-8")
    for split, count in (("train", "2,400"), ("dev", "600")):
        sizes = [len(lines) for (_, of), lines in PHRASINGS.items() if of == split]
        cells = (
            count,
            str(len(rows(split)) // 20),
            str(sum(sizes)),
            f"{min(sizes)} to {max(sizes)}",
        )
        assert f"| `{split}.tsv` | {' | '.join(cells)} |" in readme
