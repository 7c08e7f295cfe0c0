"""Every file, folder and name of the source that the documents point to exists."""

from __future__ import annotations

import re
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

ROOT = Path(__file__).parent.parent
sys.path.insert(0, str(ROOT / "tools"))

import make_files_page  # noqa: E402

from tests.compiler import test_families, test_random_families  # noqa: E402
from tests.conftest import LENGTHS  # noqa: E402
from tests.oracle import FLOAT32  # noqa: E402

PAGES = [ROOT / "README.md", ROOT / "ARCHITECTURE.md", *sorted((ROOT / "docs").rglob("*.md"))]
# Where a path in a document may begin.
BASES = [ROOT, ROOT / "src/canao", ROOT / "tests", ROOT / "tests/compiler", ROOT / "docs"]
# Files and folders of artifacts and of models, not of this project.
FOREIGN = {"canao_model.h", "0_Transformer/", "train_script.py", ".py"}
_FENCED = re.compile(r"^```.*?^```$", re.MULTILINE | re.DOTALL)
_INDENTED = re.compile(r"^ {4}.*$", re.MULTILINE)
_FILE = re.compile(r"(?<![\w/.-])[\w./-]*\w\.(?:py|c|h)\b(?:::\w+)?")
_FOLDER = re.compile(r"`([\w.-]+(?:/[\w.-]+)*/)`")
_LINK = re.compile(r"\]\((?!https?:)([^)#]+)")
# A row of a table that begins with a folder: bare file names in it are files of that folder.
_ROW = re.compile(r"^\| `([\w/.-]+/)`")


def prose(text: str) -> str:
    """A document without its code blocks, whose files are the reader's."""
    return _INDENTED.sub("", _FENCED.sub("", text))


def wrong(text: str, page: Path) -> Iterator[str]:
    """What a document names and is not there."""
    for line in prose(text).splitlines():
        row = _ROW.match(line)
        bases = [base / row[1] for base in BASES] if row else []
        for name in _FILE.findall(line):
            if name not in FOREIGN and not exists(name, bases):
                yield name
        for name in _FOLDER.findall(line):
            if name not in FOREIGN and not any((base / name).is_dir() for base in [*bases, *BASES]):
                yield name
        for name in _LINK.findall(line):
            if not (page.parent / name).exists():
                yield name


def exists(name: str, folders: list[Path]) -> bool:
    """Whether a file is there, and what follows `::` is defined in it.

    With `folders`, a bare name must be in one of them; without, anywhere in the project.
    """
    path, _, symbol = name.partition("::")
    found = [base / path for base in [*folders, *BASES] if (base / path).is_file()]
    if "/" not in path:
        places = [f for f in folders if f.is_dir()]
        if not places and not found:
            places = [ROOT / name for name in ("src", "tests", "benchmarks", "tools", "examples")]
        inside = [file for place in places for file in place.rglob(path)]
        found = inside if folders and places else [*found, *inside]
    defined = re.compile(rf"^\s*(?:def|class) {symbol}\b|^{symbol}\b *[:=]", re.MULTILINE)
    return any(not symbol or defined.search(f.read_text(encoding="utf-8")) for f in found)


@pytest.mark.parametrize("page", PAGES, ids=lambda page: str(page.relative_to(ROOT)))
def test_what_a_document_names_exists(page: Path) -> None:
    assert sorted(set(wrong(page.read_text(encoding="utf-8"), page))) == []


@pytest.mark.parametrize(("text", "found"), [
    ("see `model/arch.py`, `build.py` and `src/canao/errors.py`", []),
    ("`build.py::code_stamp` and `build.py::gone`", ["build.py::gone"]),
    ("`emit/product.py` and `gone.py`", ["emit/product.py", "gone.py"]),
    ("| `model/` | `arch.py`, `build.py` |", ["build.py"]),
    ("`fuse/rules/` and `fuse/gone/`", ["fuse/gone/"]),
    ("[page](docs/tuning.md#search) and [none](docs/none.md), [far](https://a.b/c.md)",
     ["docs/none.md"]),
    ("```\nyours.py\n```\n\n    mine.py\n", []),
    ("an artifact has `canao_model.h`", []),
])  # fmt: skip
def test_what_is_not_there_is_found(text: str, found: list[str]) -> None:
    assert list(wrong(text, ROOT / "README.md")) == found


def test_the_page_of_files_is_that_of_the_tables() -> None:
    text = make_files_page.PAGE.read_text(encoding="utf-8")
    assert text == make_files_page.page(text), "run tools/make_files_page.py"
    assert "`pruned_heads`" in text and "refused" in text


def test_what_is_compared_is_what_the_tests_compare() -> None:
    """The numbers at the top of docs/models.md, and the tolerance in docs/onnx.md."""
    drawn, pairs = test_random_families, test_families.PAIRS
    compiled = {family: [f for f, _ in test_families.COMPILED].count(family) for family, _ in pairs}
    lengths = f"{', '.join(map(str, LENGTHS[:-1]))} and {LENGTHS[-1]} tokens"
    bound = f"{FLOAT32:.0e}".replace("e-0", "e-")
    assert set(compiled.values()) == {2} and len(pairs) == 5 * len(compiled)
    models, onnx = (" ".join((ROOT / "docs" / name).read_text(encoding="utf-8").split())
                    for name in ("models.md", "onnx.md"))  # fmt: skip
    for said in (
        f"differ by more than {bound}", f"at {lengths}", "Two heads of each family are compiled",
        "The other three heads", f"{drawn.GRAPHS} on the rewritten graph in NumPy, "
        f"{drawn.LIBRARIES} compiled, and {drawn.MORE_GRAPHS} and {drawn.MORE_LIBRARIES} more",
    ):  # fmt: skip
        assert said in models, said
    assert f"differs by more than {bound}" in onnx
