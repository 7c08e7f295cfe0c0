"""Write the embedded data set: spoken commands to a phone, from hand-written phrasings.

    python tools/make_commands.py [FOLDER]

rewrites train.tsv and dev.tsv in src/canao/commands (or FOLDER). Everything comes from
commands/intents.txt and commands/slots.txt beside this file, whose heads give their notation,
and from a fixed seed; nothing but `Random.random` draws, which Python keeps the same from
version to version, so the files are the same everywhere.
"""

from __future__ import annotations

import re
import sys
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from random import Random

HERE = Path(__file__).resolve().parent
FOLDER = HERE.parent / "src" / "canao" / "commands"
HEADER = "sentence\tlabel"
SEED = 2021
PER_INTENT = {"train": 120, "dev": 30}  # rows of each label
DRAWS = 60  # tries to get something new out of a phrasing before it counts as used up

# What speakers put around a command. It says nothing about the label.
FILLERS = ("um", "uh", "hey", "okay", "so", "well", "hi", "hey phone", "um okay", "right")
POLITE = ("please", "can you", "could you", "could you please", "would you", "will you",
          "i need you to", "i'd like you to", "can you please", "go ahead and")  # fmt: skip
ENDINGS = ("please", "thanks", "now", "right now")
HESITATIONS = ("um", "uh", "er")
P_FILLER, P_POLITE, P_ENDING, P_HESITATION, P_REPEAT = 0.18, 0.35, 0.12, 0.05, 0.03

_GROUP = re.compile(r"\[([^][()<>]*)\]|\(([^][()<>]*)\)|<([a-z_]+)>")

Sections = dict[tuple[str, str], tuple[str, ...]]  # (name, split or '') -> lines


@dataclass(frozen=True, slots=True)
class Row:
    """One labelled utterance; `core` is what was said without fillers and politeness."""

    sentence: str
    label: str
    core: str


def read_sections(path: Path) -> Sections:
    """The lines below each '= NAME [SPLIT]' header; ValueError for a header given twice."""
    found: dict[tuple[str, str], list[str]] = {}
    lines: list[str] = []
    for line in path.read_text(encoding="utf-8").splitlines():
        if line.startswith("="):
            name, split = (*line[1:].split(), "")[:2]
            if (name, split) in found:
                raise ValueError(f"{path.name}: section '{line}' is there twice")
            lines = found.setdefault((name, split), [])
        elif line.strip() and not line.startswith("#"):
            lines.append(line.strip())
    return {key: tuple(lines) for key, lines in found.items()}


def slots_of(sections: Sections, split: str) -> dict[str, tuple[str, ...]]:
    """The fillers that utterances of `split` may use, by slot name."""
    return {name: lines for (name, of), lines in sections.items() if of in ("", split)}


def pick(random: Random, options: Sequence[str]) -> str:
    return options[int(random.random() * len(options))]


def expand(phrasing: str, slots: dict[str, tuple[str, ...]], random: Random) -> str:
    """One utterance of a phrasing: groups are replaced from the inside out."""
    text = phrasing
    while match := _GROUP.search(text):
        optional, alternatives, slot = match.groups()
        if slot is not None:
            chosen = pick(random, slots[slot])
        elif alternatives is not None:
            chosen = pick(random, alternatives.split("|"))
        else:
            chosen = pick(random, optional.split("|")) if random.random() < 0.5 else ""
        text = text[: match.start()] + chosen + text[match.end() :]
    return " ".join(text.split())


def dress(core: str, order: bool, random: Random) -> str:
    """`core` as somebody says it: politeness if it is an order, fillers, slips of the tongue."""
    words = core.split()
    if random.random() < P_REPEAT:
        at = int(random.random() * len(words))
        words.insert(at, words[at])
    if len(words) > 2 and random.random() < P_HESITATION:
        words.insert(1 + int(random.random() * (len(words) - 1)), pick(random, HESITATIONS))
    if order and random.random() < P_POLITE:
        words.insert(0, pick(random, POLITE))
    if order and random.random() < P_ENDING:
        words.append(pick(random, ENDINGS))
    if random.random() < P_FILLER:
        words.insert(0, pick(random, FILLERS))
    return " ".join(words)


def utterances(
    phrasings: Sequence[str], slots: dict[str, tuple[str, ...]], random: Random, count: int
) -> list[tuple[str, str]]:
    """`count` different (sentence, core), as evenly over the phrasings as they allow.

    A core comes again, dressed differently, only when its phrasing has no other left.
    """
    rows: dict[str, str] = {}
    live = sorted(phrasings, key=lambda _: random.random())
    while len(rows) < count:
        if not live:
            raise ValueError(f"{phrasings[0]!r} and those below it give {len(rows)} of {count}")
        for phrasing in tuple(live):
            order, body = phrasing.startswith("!"), phrasing.lstrip("! ")
            fallback = None
            for _ in range(DRAWS):
                core = expand(body, slots, random)
                sentence = dress(core, order, random)
                if sentence in rows:
                    continue
                fallback = sentence, core
                if core not in rows.values():
                    break
            if fallback is None:
                live.remove(phrasing)
            elif len(rows) < count:
                rows[fallback[0]] = fallback[1]
    return list(rows.items())


def generate(split: str) -> list[Row]:
    """The rows of a split in file order; ValueError if two labels share an utterance."""
    sections = read_sections(HERE / "commands" / "intents.txt")
    slots = slots_of(read_sections(HERE / "commands" / "slots.txt"), split)
    rows: list[Row] = []
    label_of: dict[str, str] = {}
    for (label, of), phrasings in sections.items():
        if of != split:
            continue
        random = Random(f"{SEED} {split} {label}")  # a change to one label leaves the others be
        for sentence, core in utterances(phrasings, slots, random, PER_INTENT[split]):
            if label_of.setdefault(core, label) != label:
                raise ValueError(f"{core!r} is {label_of[core]} as well as {label}")
            rows.append(Row(sentence, label, core))
    random = Random(f"{SEED} {split}")
    return sorted(rows, key=lambda _: random.random())


def to_tsv(rows: Sequence[Row]) -> str:
    return "\n".join((HEADER, *(f"{row.sentence}\t{row.label}" for row in rows))) + "\n"


def main(arguments: Sequence[str]) -> None:
    folder = Path(arguments[0]) if arguments else FOLDER
    for split in PER_INTENT:
        rows = generate(split)
        (folder / f"{split}.tsv").write_text(to_tsv(rows), encoding="utf-8", newline="\n")
        print(f"{folder / split}.tsv: {len(rows)} rows")


if __name__ == "__main__":
    main(sys.argv[1:])
