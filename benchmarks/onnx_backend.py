"""Scores CANAO on the node tests of the `onnx` package, by operator.

    python benchmarks/onnx_backend.py --run      runs them, writes results/onnx_backend.jsonl
    python benchmarks/onnx_backend.py --table    writes the table into docs/onnx.md

A test has passed only if onnx's own runner compared outputs and found them equal within its
tolerance. One that CANAO refuses with an UnsupportedError is not supported; all others failed.
"""

from __future__ import annotations

import argparse
import json
import unittest
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import onnx
from onnx.backend.test import BackendTest
from onnx.backend.test.runner import BackendIsNotSupposedToImplementIt

from canao.build import get_toolchain
from canao.onnx_backend import CanaoBackend, CanaoRep

ROOT = Path(__file__).resolve().parent.parent
RESULTS = ROOT / "benchmarks" / "results" / "onnx_backend.jsonl"
PAGE = ROOT / "docs" / "onnx.md"
BEGIN, END = "<!-- node tests: begin -->", "<!-- node tests: end -->"


class _Log:
    """What happened in the test under way."""

    compared = 0
    refused = ""


class _Rep(CanaoRep):
    def run(self, inputs: Any, **options: Any) -> tuple[Any, ...]:
        try:
            return super().run(inputs, **options)
        except BackendIsNotSupposedToImplementIt as error:
            _Log.refused = str(error)
            raise


class _Backend(CanaoBackend):
    """Keeps why a model was refused, which onnx's runner takes for a pass."""

    @classmethod
    def prepare(cls, model: Any, device: str = "CPU", **options: Any) -> CanaoRep:
        try:
            rep = super().prepare(model, device, **options)
        except BackendIsNotSupposedToImplementIt as error:
            _Log.refused = str(error)
            raise
        rep.__class__ = _Rep
        return rep


class _Runner(BackendTest):
    """onnx's runner; counts its comparisons."""

    @classmethod
    def assert_similar_outputs(cls, *arguments: Any, **options: Any) -> None:
        super().assert_similar_outputs(*arguments, **options)
        _Log.compared += 1


def run(pattern: str, cc: str) -> list[dict[str, str]]:
    """One record a test: its name, operator, status and why it is not a pass."""
    _Backend.toolchain = get_toolchain(cc)
    runner = _Runner(_Backend, __name__)
    if pattern:
        runner.include(pattern)
    case = runner.test_cases["OnnxBackendNodeModelTest"]
    names = sorted(n for n in dir(case) if n.startswith("test_") and n.endswith("_cpu"))
    operators = _operators(runner)
    records = []
    for i, name in enumerate(names):
        status, why = _one(case, name)
        plain = name.removesuffix("_cpu")
        base = plain.partition("_expanded")[0]
        operator = operators.get(base) or operators.get(plain) or "?"
        records.append({"test": plain, "operator": operator, "status": status, "why": why})
        if i % 100 == 0:
            print(f"{i} of {len(names)}", flush=True)
    return records


def _operators(runner: BackendTest) -> dict[str, str]:
    """The operator that each test is about: of the only node, or the one its name starts with."""
    from onnx.backend.test.loader import load_model_tests

    found = {}
    for test in load_model_tests(kind="node"):
        nodes = test.model.graph.node if test.model is not None else []
        kinds = {n.op_type for n in nodes}
        if len(kinds) == 1:
            found[test.name] = kinds.pop()
        else:
            word = test.name.removeprefix("test_").partition("_expanded")[0].replace("_", "")
            fitting = [k for k in kinds if word.startswith(k.lower())]
            found[test.name] = max(fitting, key=len, default="several")
    return found


def _one(case: type[unittest.TestCase], name: str) -> tuple[str, str]:
    _Log.compared, _Log.refused = 0, ""
    result = unittest.TestResult()
    case(name).run(result)
    problems = result.failures + result.errors
    if problems:
        lines = [line for line in problems[0][1].strip().splitlines() if line.strip()]
        return "failed", next((li for li in lines[::-1] if ":" in li), lines[-1])[:120]
    if _Log.refused:
        return "not supported", _Log.refused[:120]
    if _Log.compared:
        return "passed", ""
    why = result.skipped[0][1] if result.skipped else "the runner compared nothing"
    return "not supported", why[:120]


def table(records: Sequence[dict[str, str]]) -> str:
    """Markdown: a line for each operator with a pass or a failure; the others by name."""
    by: dict[str, dict[str, int]] = {}
    for r in records:
        line = by.setdefault(r["operator"], {"passed": 0, "not supported": 0, "failed": 0})
        line[r["status"]] += 1
    total = {s: sum(v[s] for v in by.values()) for s in ("passed", "not supported", "failed")}
    lines = [
        f"{sum(total.values())} tests of onnx {onnx.__version__}: {total['passed']} passed, "
        f"{total['not supported']} not supported, {total['failed']} failed.",
        "",
        "| operator | passed | not supported | failed |",
        "| --- | ---: | ---: | ---: |",
    ]
    for name in sorted(by):
        v = by[name]
        if v["passed"] or v["failed"]:
            lines.append(f"| {name} | {v['passed']} | {v['not supported']} | {v['failed']} |")
    none = sorted(n for n, v in by.items() if not v["passed"] and not v["failed"])
    lines += ["", f"Not supported in any test: {', '.join(none)}."]
    return "\n".join(lines)


def main() -> None:
    parser = argparse.ArgumentParser(description="Score CANAO on the node tests of onnx.")
    parser.add_argument("--run", action="store_true", help="run the tests (minutes)")
    parser.add_argument("--table", action="store_true", help="write the table into docs/onnx.md")
    parser.add_argument("--only", default="", help="regular expression of tests' names")
    parser.add_argument("--cc", default="zig", help="zig, or a compiler on the PATH")
    given = parser.parse_args()
    if given.run:
        records = run(given.only, given.cc)
        if not given.only:
            RESULTS.write_text("".join(json.dumps(r) + "\n" for r in records), encoding="utf-8")
        print(table(records))
        for r in records:
            if r["status"] == "failed":
                print(r["test"], r["why"])
    if given.table:
        records = [json.loads(line) for line in RESULTS.read_text("utf-8").splitlines()]
        head, _, rest = PAGE.read_text(encoding="utf-8").partition(BEGIN)
        tail = rest.partition(END)[2]
        PAGE.write_text(f"{head}{BEGIN}\n{table(records)}\n{END}{tail}", encoding="utf-8")


if __name__ == "__main__":
    main()
