"""The manifest: whatever is changed in it, the model computes the same or is refused in a line."""

from __future__ import annotations

import copy
import json
import os
import random
import shutil
import subprocess
import sys
import tempfile
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

import canao
from canao.artifact.directory import Artifact
from canao.artifact.manifest import sealed
from canao.compiler.pipeline import compile_model
from canao.errors import CanaoError, InputError
from canao.inference.tasks import TASKS
from tests.compiler.models import classifier
from tests.test_cli import _write_tokenizer

SEED, COUNT, ROOT = 20, 1200, Path(__file__).parents[1]
# What stands in an entry's place: other types, other numbers, text that no file should hold.
VALUES: tuple[Any, ...] = (
    None, True, False, 0, 1, -1, 2, 3, 7, 64, 2**31 - 1, 2**31, 2**63, 10**30, 0.5, 1.0,
    1e308, -0.0, "", "x", "s", "s*s", "4*s + 2", "9" * 5000, "s*" * 5000 + "s", "a\nb", "\0", "é",
    "\ud800", "../../etc/passwd", [], [[]], [None], [1, "s"], ["x"], {}, {"x": 1}, {"": None},
    "NaN", "Infinity", "1e999", "HUGE", "DEEP", *TASKS,
)  # fmt: skip
POOLING = {"modes": ["mean"], "dense": [], "normalize": True, "max_tokens": 4, "lowercase": True,
           "prompt": "x"}  # fmt: skip
# Of a task other than that of the model, with what belongs to it.
OTHERS = [{"task": task, "pooling": pooling, "tokenizer": tokenizer, "problem_type": problem}
          for task in TASKS for pooling in (None, POOLING, POOLING | {"modes": ["x"]})
          for tokenizer in (None, {"kind": "x", "file": "x", "mask": "seven"})
          for problem in ("", "multi_label_classification")]  # fmt: skip
# What Python's own writer of JSON refuses, put in for a string.
RAW = {name: name for name in ("NaN", "Infinity", "1e999")} | {
    "HUGE": "9" * 5000, "DEEP": "[" * 100_000 + "]" * 100_000
}  # fmt: skip


@pytest.fixture(scope="module")
def artifact(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("manifest")
    classifier("small", layers=1, max_length=16).save_pretrained(folder / "model")
    _write_tokenizer(folder / "model")
    return compile_model(folder / "model", folder / "out").path


def manifest(artifact: Path) -> dict[str, Any]:
    return json.loads((artifact / "manifest.json").read_text())


def places(value: Any, way: tuple[Any, ...] = ()) -> Iterator[tuple[Any, ...]]:
    """The ways to all entries of a JSON value, of objects and of lists."""
    if way:
        yield way
    for key, inner in value.items() if isinstance(value, dict) else (
        enumerate(value) if isinstance(value, list) else ()
    ):
        yield from places(inner, (*way, key))


def mutate(entries: dict[str, Any], rng: random.Random) -> None:
    """Change one thing in a manifest."""
    ways = list(places(entries))
    # Kernels are most of the entries, and all alike.
    way = rng.choice([w for w in ways if w[0] != "kernels"] if rng.random() < 0.8 else ways)
    inside: Any = entries
    for key in way[:-1]:
        inside = inside[key]
    key, old = way[-1], inside[way[-1]]
    match rng.randrange(8):
        case 0:
            del inside[key]
        case 1 if isinstance(old, int):
            inside[key] = old + rng.choice((-1, 1, 1000))
        case 2 if isinstance(old, list) and old:
            inside[key] = rng.choice((old[:-1], old[::-1], old + old, [old], old[0]))
        case 3 if isinstance(inside, dict):
            inside[f"{key}x"] = inside.pop(key)
        case 4 if isinstance(inside, list):
            inside.insert(key, rng.choice(VALUES))
        case _:
            inside[key] = rng.choice(VALUES)


def text_of(entries: Any, seal: bool) -> str:
    """As a file holds it."""
    if seal:
        entries = sealed(entries)
    text = json.dumps(entries)
    for name, raw in RAW.items():
        text = text.replace(f'"{name}"', raw)
    return text


def outcomes(artifact: Path, texts: list[str]) -> list[str]:
    """What becomes of each, from a few processes. A crash fails here, with what was tried."""
    found: list[str] = []
    for start in range(0, len(texts), 400):
        part = texts[start : start + 400]
        done = subprocess.run(
            [sys.executable, "-m", "tests.mutated", str(artifact)], cwd=ROOT, text=True,
            input="".join(json.dumps(text) + "\n" for text in part), capture_output=True,
        )  # fmt: skip
        said = done.stdout.splitlines()
        tried = [text[:3000] for text in part[len(said) :]][:1]
        assert not tried and done.returncode == 0, (done.returncode, done.stderr[-2000:], tried)
        found += said
    return found


def mutants(artifact: Path, seal: bool) -> list[str]:
    rng, right = random.Random(SEED + seal), manifest(artifact)
    made = [text_of(right | other, seal) for other in OTHERS]
    for _ in range(COUNT // 2):
        changed = copy.deepcopy(right)
        for _ in range(rng.choice((1, 1, 1, 2, 3))):
            mutate(changed, rng)
        made.append(text_of(changed, seal))
    return made


def test_what_was_changed_is_refused(artifact: Path) -> None:
    """By its checksum, if by nothing else."""
    texts, right = mutants(artifact, seal=False), manifest(artifact)
    for text, said in zip(texts, outcomes(artifact, texts), strict=True):
        assert said.startswith("refused: ") or (said == "same" and json.loads(text) == right), (
            f"{said}\n{text[:3000]}"
        )


def test_with_a_checksum_that_fits(artifact: Path) -> None:
    """Whoever wrote it meant it: the same numbers, or one line, and never a crash."""
    texts = mutants(artifact, seal=True)
    found = outcomes(artifact, texts)
    for text, said in zip(texts, found, strict=True):
        assert said == "same" or said.startswith("refused: "), f"{said}\n{text[:3000]}"
    ran = sum(said == "same" for said in found)
    assert 50 < ran < len(texts) - 200, "some changes are of no account, most are"


def changed(artifact: Path, tmp_path: Path, **entries: Any) -> Path:
    """A copy whose manifest has other entries and fits its checksum."""
    copied = tmp_path / "copy"
    shutil.copytree(artifact, copied)
    text = json.dumps(sealed(manifest(artifact) | entries))
    (copied / "manifest.json").write_text(text)
    return copied


OUTPUT = {"name": "logits", "dtype": "float32", "shape": [1, 3]}
SLOTS = [{"name": n, "dtype": "int32", "shape": ["s"], "limit": limit}
         for n, limit in (("input_ids", 99), ("token_type_ids", 2))]  # fmt: skip


def test_the_right_entries_are_these(artifact: Path) -> None:
    found = manifest(artifact)
    assert found["outputs"] == [OUTPUT] and found["inputs"] == SLOTS
    assert (found["max_length"], found["resumes"]) == (16, False)


@pytest.mark.parametrize(
    ("entry", "value"),
    [
        ("outputs", [OUTPUT, OUTPUT]), ("outputs", [OUTPUT | {"name": "other"}]),
        ("outputs", [OUTPUT | {"shape": [1, 2]}]), ("outputs", [OUTPUT | {"shape": [1, "s"]}]),
        ("outputs", [OUTPUT | {"dtype": "float16"}]), ("inputs", SLOTS[:1]),
        ("inputs", SLOTS[::-1]), ("inputs", [SLOTS[0] | {"limit": 100}, SLOTS[1]]),
        ("max_length", 17), ("max_length", 1), ("resumes", True),
    ],
)  # fmt: skip
def test_the_library_is_asked(artifact: Path, tmp_path: Path, entry: str, value: Any) -> None:
    """Manifest and library must say the same before anything is written."""
    with pytest.raises(InputError, match=rf"manifest\.json and model\.so differ in '{entry}' \("):
        canao.load(changed(artifact, tmp_path, **{entry: value}))


@pytest.mark.parametrize("name", ("manifest.json", "model.so", "weights.bin", "tokenizer.json",
                                  "canao_model.h"))  # fmt: skip
@pytest.mark.parametrize("kind", ("pipe", "device", "directory", "nothing", "loop"))
def test_files_that_are_none(artifact: Path, tmp_path: Path, name: str, kind: str) -> None:
    """In place of any file: never waited for, never read without end."""
    folder = tmp_path / "copy"
    shutil.copytree(artifact, folder)
    path = folder / name
    path.unlink()
    match kind:
        case "pipe":
            os.mkfifo(path)
        case "device":
            path.symlink_to("/dev/zero")
        case "directory":
            path.mkdir()
        case "loop":
            path.symlink_to(name)
    words = r"not a regular file|cannot be read|no manifest\.json"
    with pytest.raises(InputError, match=words) as e:
        canao.load(folder)
    assert "\n" not in str(e.value) and str(folder) in str(e.value)


def test_names_that_leave_the_directory(artifact: Path, tmp_path: Path) -> None:
    for name in ("../model.so", "/etc/passwd", "a/b", "", ".", "..", "model.so\n"):
        files = manifest(artifact)["files"] | {name: "0" * 64}
        folder = Path(tempfile.mkdtemp(dir=tmp_path))
        with pytest.raises(CanaoError, match=r"manifest\.json: .*compile the model again"):
            Artifact.load(changed(artifact, folder, files=files))


@pytest.mark.parametrize("entry", ("activation", "generation", "left_out", "source"))
def test_entries_of_some_models_only(artifact: Path, tmp_path: Path, entry: str) -> None:
    right: dict[str, Any] = {"activation": "tanh", "generation": {"a": [1]},
                             "left_out": [["x", "why"]], "source": {"name": "a/b"}}  # fmt: skip
    loaded = Artifact.load(changed(artifact, tmp_path / "a", **{entry: right[entry]}))
    assert loaded.manifest[entry] == right[entry]
    with pytest.raises(InputError, match=f"'{entry}"):
        Artifact.load(changed(artifact, tmp_path / "b", **{entry: 1}))
