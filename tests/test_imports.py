"""The package as a graph of imports: no cycles, and `import canao` stays light."""

from __future__ import annotations

import ast
import re
import subprocess
import sys
import time
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass
from functools import cache
from pathlib import Path

import pytest

import canao

ROOT = Path(canao.__file__).parent
HEAVY = ("torch", "transformers", "optuna", "matplotlib", "numpy", "scipy", "sklearn", "onnx",
         "sqlalchemy", "tokenizers", "typer", "rich")  # fmt: skip
SECONDS = 0.3
# Groups that name each other for type checkers only, until each has a protocol of its own to name.
TYPING_CYCLES: frozenset[frozenset[str]] = frozenset()


@dataclass(frozen=True)
class Import:
    """`importer` names `imported`; `when` is 'loading', 'called' (in a function) or 'typing'."""

    importer: str
    imported: str
    when: str


def modules(root: Path) -> dict[str, Path]:
    """The files of a package by module name."""
    found = {}
    for path in sorted(root.rglob("*.py")):
        parts = (root.name, *path.relative_to(root).with_suffix("").parts)
        found[".".join(parts[:-1] if parts[-1] == "__init__" else parts)] = path
    return found


def imports(known: Mapping[str, Path]) -> Iterator[Import]:
    """Every import between the modules of the package."""
    for name, path in known.items():
        tree = ast.parse(path.read_text(encoding="utf-8"))
        for node, when in _statements(tree, "loading"):
            for imported in _imported(node, known):
                if imported != name:
                    yield Import(name, imported, when)


@cache
def all_imports() -> tuple[Import, ...]:
    """Those of CANAO."""
    return tuple(imports(modules(ROOT)))


def _statements(node: ast.AST, when: str) -> Iterator[tuple[ast.Import | ast.ImportFrom, str]]:
    for child in ast.iter_child_nodes(node):
        if isinstance(child, ast.Import | ast.ImportFrom):
            yield child, when
        elif isinstance(child, ast.FunctionDef | ast.AsyncFunctionDef | ast.Lambda):
            yield from _statements(child, "called")
        elif isinstance(child, ast.If) and "TYPE_CHECKING" in ast.unparse(child.test):
            yield from _statements(child, "typing")
        else:
            yield from _statements(child, when)


def _imported(node: ast.Import | ast.ImportFrom, known: Mapping[str, Path]) -> Iterator[str]:
    if isinstance(node, ast.Import):
        yield from (alias.name for alias in node.names if alias.name in known)
        return
    assert node.level == 0, "the package has no relative imports"
    for alias in node.names:
        # `from canao.search import space` loads the module, `... import Space` its package.
        whole = f"{node.module}.{alias.name}"
        if whole in known:
            yield whole
        elif node.module in known:
            yield node.module


def cycles(edges: Iterable[Import]) -> set[frozenset[str]]:
    """The groups of modules that import each other."""
    following: dict[str, set[str]] = {}
    for edge in edges:
        following.setdefault(edge.importer, set()).add(edge.imported)
    reached = {name: _reachable(name, following) for name in following}
    return {
        frozenset(b for b in reached[a] if a in reached.get(b, ())) for a in following
        if a in reached[a]
    }  # fmt: skip


def _reachable(start: str, following: Mapping[str, set[str]]) -> set[str]:
    found: set[str] = set()
    waiting = list(following[start])
    while waiting:
        name = waiting.pop()
        if name not in found:
            found.add(name)
            waiting += following.get(name, ())
    return found


def test_no_modules_load_each_other() -> None:
    assert cycles(edge for edge in all_imports() if edge.when == "loading") == set()


def test_late_imports_hide_no_cycle() -> None:
    """An import inside a function may put off a heavy package, but not hide a cycle."""
    edges = [edge for edge in all_imports() if edge.when != "typing"]
    assert any(edge.when == "called" for edge in edges)
    assert cycles(edges) == set()


def test_modules_name_no_importer_for_its_types() -> None:
    found = cycles(all_imports())
    assert found - TYPING_CYCLES == set(), "these modules name each other"
    assert TYPING_CYCLES - found == set(), "no longer a cycle: remove it from TYPING_CYCLES"


@pytest.fixture
def package(tmp_path: Path) -> Path:
    """A package in which a and b import each other, and c and d only when called."""
    folder = tmp_path / "made"
    folder.mkdir()
    for name, text in {
        "__init__": "", "a": "from made.b import x\n", "b": "import made.a\n",
        "c": "from made import d\n", "d": "def f() -> None:\n    from made.c import y\n",
        "e": "if TYPE_CHECKING:\n    from made.a import x\n",
    }.items():  # fmt: skip
        (folder / f"{name}.py").write_text(text)
    return folder


def test_the_graph_finds_a_cycle(package: Path) -> None:
    found = set(imports(modules(package)))
    assert found == {
        Import("made.a", "made.b", "loading"), Import("made.b", "made.a", "loading"),
        Import("made.c", "made.d", "loading"), Import("made.d", "made.c", "called"),
        Import("made.e", "made.a", "typing"),
    }  # fmt: skip
    parted = {frozenset({"made.a", "made.b"}), frozenset({"made.c", "made.d"})}
    assert cycles(found) == parted
    assert cycles(e for e in found if e.when == "loading") == parted - {
        frozenset({"made.c", "made.d"})
    }


ROOMS = [path.parent for path in sorted(ROOT.rglob("*/__init__.py"))]
every_room = pytest.mark.parametrize("room", ROOMS, ids=lambda r: str(r.relative_to(ROOT)))


def docstring(room: Path) -> str:
    """What a room says of itself, in one line."""
    tree = ast.parse((room / "__init__.py").read_text(encoding="utf-8"))
    return " ".join((ast.get_docstring(tree) or "").split())


def layers() -> list[set[str]]:
    """The rooms of each layer, the highest first, as import-linter checks them."""
    text = (Path(__file__).parent.parent / "pyproject.toml").read_text(encoding="utf-8")
    found = re.search(r'containers = \["canao"\]\nlayers = \[(.*?)\]', text, re.DOTALL)
    assert found
    return [set(layer.split(" | ")) for layer in re.findall(r'"(.*?)"', found[1])]


def permitted(text: str) -> tuple[set[str], set[str]]:
    """What a docstring names after 'May import', and what lies below that if it says so too."""
    sentence = re.search(r"\bMay import\b(.*?)(?:;|\.(?=\s|$))", text)
    assert sentence, "a room says what it 'May import'"
    if "everything" in sentence[1]:
        return set(), {"canao"}
    named = set()
    for word in re.findall(r"[a-z_]+(?:/[a-z_]+)*(?:\.py)?", sentence[1]):
        if (ROOT / word / "__init__.py").is_file() or (ROOT / f"{word}.py").is_file():
            named.add(f"canao.{word}".replace("/", "."))
        elif word.endswith(".py"):
            assert (ROOT / word).is_file(), f"{word} is no file"
            named.add(f"canao.{word.removesuffix('.py')}".replace("/", "."))
    below: set[str] = set()
    if re.search(r"what is below (?:it|them)", sentence[1]):
        order = layers()
        tops = [i for i, layer in enumerate(order) if named & {f"canao.{r}" for r in layer}]
        below = {f"canao.{room}" for layer in order[min(tops) + 1 :] for room in layer}
    return named, below


def within(name: str, rooms: Iterable[str]) -> bool:
    """Whether a module is one of `rooms`, or inside of one."""
    return any(name == room or name.startswith(f"{room}.") for room in rooms)


@every_room
def test_a_room_says_what_belongs_in_it(room: Path) -> None:
    """A line of code should know its folder by the docstring: what is in it, what it may import."""
    sentences = re.findall(r"[A-Z][^.]*(?:\.[a-z][^.]*)*\.(?=\s|$)", docstring(room))
    assert len(sentences) >= 2


@every_room
def test_a_room_imports_what_it_says(room: Path) -> None:
    """Nothing else, and all that it names."""
    own = f"canao.{room.relative_to(ROOT)}".replace("/", ".")
    named, below = permitted(docstring(room))
    found = {edge.imported for edge in all_imports()
             if within(edge.importer, {own}) and not within(edge.imported, {own})}  # fmt: skip
    assert {name for name in found if not within(name, named | below)} == set(), "not named"
    assert {name for name in named if not any(within(f, {name}) for f in found)} == set(), "unused"


@pytest.mark.parametrize(("text", "named", "below"), [
    ("Values. May import graph and errors; knows no fuse.", {"graph", "errors"}, set()),
    ("Files. May import graph/dtypes.py and torch.", {"graph.dtypes"}, set()),
    ("Sets. May import isa and what is below it.", {"isa"}, {"defaults", "errors"}),
    ("Units. May import nothing of canao; no fuse either.", set(), set()),
])  # fmt: skip
def test_what_a_room_says_is_understood(text: str, named: set[str], below: set[str]) -> None:
    assert permitted(text) == tuple({f"canao.{r}" for r in rooms} for rooms in (named, below))


def test_every_folder_of_code_is_a_room() -> None:
    folders = {path.parent for path in ROOT.rglob("*.py")}
    assert {f for f in folders if not (f / "__init__.py").is_file()} == set()


def test_importing_canao_is_light() -> None:
    """Neither a package of the dependencies nor much time: the best of three, of one process each,
    less that of a process that imports nothing."""
    code = f"import sys, canao; print(sorted(set({HEAVY!r}) & set(sys.modules)))"
    assert _run(code)[1].strip() == "[]"
    bare, whole = (min(_run(c)[0] for _ in range(3)) for c in ("pass", "import canao"))
    assert whole - bare < SECONDS


def test_the_command_line_loads_no_heavy_package() -> None:
    """`canao --help` answers at once: typer, rich and NumPy only."""
    code = f"import sys, canao.cli.app; print(sorted(set({HEAVY!r}) & set(sys.modules)))"
    assert _run(code)[1].strip() == "['numpy', 'rich', 'typer']"


def _run(code: str) -> tuple[float, str]:
    begun = time.monotonic()
    done = subprocess.run(
        [sys.executable, "-c", code], capture_output=True, text=True, check=True,
        env={"PYTHONPATH": str(ROOT.parent)},
    )  # fmt: skip
    return time.monotonic() - begun, done.stdout
