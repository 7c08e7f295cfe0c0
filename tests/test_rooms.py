"""What may not be in a room: decisions in emit, C in schedule and lower."""

from __future__ import annotations

import ast
import re
from collections.abc import Iterator
from pathlib import Path

import pytest

import canao

ROOT = Path(canao.__file__).parent
# A brace, a statement's end or a type of C: text that only emit may hold.
C_TEXT = re.compile(r"[{}]|;\s*$|#include|\b(?:int32_t|int64_t|float \*|vf_\w+|for \(|restrict\b)")
# Of the machine, which lower looks at and emit never does.
MACHINE = re.compile(
    r"l[123]_?(?:bytes|cache|size)|cache_size|getenv|environ|perf_counter|monotonic"
)
MEASURES = {"time", "os", "timeit", "platform", "subprocess"}


def sources(*rooms: str) -> Iterator[tuple[str, ast.Module]]:
    for room in rooms:
        for path in sorted((ROOT / room).rglob("*.py")):
            yield str(path.relative_to(ROOT)), ast.parse(path.read_text(encoding="utf-8"))


def strings(tree: ast.Module) -> Iterator[str]:
    """The strings of a module but for docstrings and what errors say."""
    ignored: set[int] = set()
    for node in ast.walk(tree):
        if isinstance(node, ast.Raise) or _is_docstring(node):
            ignored.update(id(inner) for inner in ast.walk(node))
    for node in ast.walk(tree):
        if id(node) in ignored:
            continue
        if isinstance(node, ast.Constant) and isinstance(node.value, str):
            yield node.value


def _is_docstring(node: ast.AST) -> bool:
    return isinstance(node, ast.Expr) and isinstance(node.value, ast.Constant)


def imported(tree: ast.Module) -> set[str]:
    found: set[str] = set()
    for node in ast.walk(tree):
        if isinstance(node, ast.Import):
            found.update(alias.name for alias in node.names)
        elif isinstance(node, ast.ImportFrom):
            found.add(node.module or "")
    return found


def names(tree: ast.Module) -> set[str]:
    """Every name and attribute that a module uses."""
    return {n.attr for n in ast.walk(tree) if isinstance(n, ast.Attribute)} | {
        n.id for n in ast.walk(tree) if isinstance(n, ast.Name)
    }


def test_schedule_and_lower_hold_no_c():
    # The tuning database speaks SQL and messages, not C.
    found = {
        f"{path}: {text}" for path, tree in sources("schedule", "lower")
        for text in strings(tree) if path != "schedule/database.py" and C_TEXT.search(text)
    }  # fmt: skip
    assert found == set()


def test_schedule_and_lower_do_not_import_emit():
    below = sources("schedule", "lower", "fuse", "graph", "isa")
    found = {f"{path}: {name}" for path, tree in below for name in imported(tree)
             if f"{name}.".startswith("canao.emit.")}  # fmt: skip
    assert found == set()


def test_emit_looks_at_no_machine_and_measures_nothing():
    found = {f"{path}: {name}" for path, tree in sources("emit") for name in names(tree)
             if MACHINE.search(name)}  # fmt: skip
    found |= {
        f"{path}: {name}" for path, tree in sources("emit") for name in imported(tree)
        if name.partition(".")[0] in MEASURES or f"{name}.".startswith("canao.machine.")
    }  # fmt: skip
    found |= {f"{path}: {text}" for path, tree in sources("emit") for text in strings(tree)
              if "getenv" in text or "sysconf" in text}  # fmt: skip
    assert found == set()


def test_emit_asks_no_lowering_for_spaces_or_defaults():
    decides = {"space", "default", "default_plan", "default_plans", "default_tile", "rough_cost",
               "schedule_program", "plan_memory", "lay_out", "plan_cache"}  # fmt: skip
    found = {f"{path}: {name}" for path, tree in sources("emit") for name in names(tree) & decides}
    assert found == set()


@pytest.mark.parametrize(
    "text", ["for (int i = 0;", "{", "vf_load(p)", "return x;", "int64_t n", "#include <x.h>"]
)
def test_the_rule_knows_c(text):
    assert C_TEXT.search(text)
