"""How near the inner loops of ARM's products are to what its cores can issue, by llvm-mca.

    python benchmarks/arm_loops.py --mca llvm-mca-22   writes results/arm_loops.jsonl
    python benchmarks/arm_loops.py --table             writes the table into arm_loops.md
    python benchmarks/arm_loops.py --tiles             of all tiles, what is left without a register

No ARM processor is needed, and nothing is timed: ziglang's clang compiles the loops, and llvm-mca
(`apt-get install llvm-22`) runs them on its models of the cores.
"""

from __future__ import annotations

import argparse
import json
import re
import subprocess
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from pages import fill, table

from canao.build import assembly, get_toolchain
from canao.emit.c.prelude import MACROS, vector_operations
from canao.emit.c.tile_templates import tile_loop, tile_operations
from canao.emit.writer import fill as filled
from canao.isa.registry import ISAS
from canao.isa.table import Isa
from canao.lower.cpu.tiles import default_tile, rounded, tiles
from canao.target import get_target

FOLDER = Path(__file__).resolve().parent
RESULTS, PAGE = FOLDER / "results" / "arm_loops.jsonl", FOLDER / "arm_loops.md"
ARM = get_target("aarch64-linux")

# (instruction set, product): what multiplies in its inner loop.
LOOPS = {
    ("neon", "f32"): "fmla", ("neon", "i8"): "smull", ("neon_dotprod", "i8"): "sdot",
    ("neon_dotprod", "f16"): "fmla", ("neon_i8mm", "i8"): "smmla", ("neon_i8mm", "bf16"): "bfmmla",
}  # fmt: skip
# Multiplications of 128 bits that a core begins in a cycle: as many as it has vector units. Models
# of LLVM that agree with Arm's optimisation guides in that; those of Cortex-A76 to A78 do not, for
# which Neoverse N1 stands, nor does that of A55.
CORES = {"neoverse-n1": 2, "cortex-x1": 4, "cortex-a710": 2, "cortex-x2": 4, "cortex-x4": 4}
NO_MATRICES = ("neoverse-n1", "cortex-x1")  # lack i8mm and bf16
# Of each smull there is a sadalp, which other units of the core take.
UNITS_FOR = {"smull": 2}
ATTRIBUTES = "+v8.2a,+fullfp16,+dotprod,+i8mm,+bf16"
DEPTH, TURNS = 768, 300
# Columns of products whose default tiles are looked at: any, a hidden size's, a head's.
COLUMNS = (0, 384, 64)

FUNCTION = """
void tile_${shape}(const $A *a, const $W *b, const char *next, int64_t step, $VC *sums)
{
    $VC acc[$ROWS][$NV];
    UNROLL for (int i = 0; i < $MR; i++)
        UNROLL for (int v = 0; v < $NV; v++)
            acc[i][v] = sums[i * $NV + v];
    panel_fma_${product}_${shape}($MR, $DEPTH, a, $DEPTH, b, 1, next, step, acc);
    UNROLL for (int i = 0; i < $MR; i++)
        UNROLL for (int v = 0; v < $NV; v++)
            sums[i * $NV + v] = acc[i][v];
}
"""


@dataclass(frozen=True, slots=True)
class Loop:
    """The instructions of a loop, and how many of them multiply. In that of a loop around another
    'INNER' stands for the other."""

    body: tuple[str, ...]
    multiplies: int
    frame: bool

    @property
    def stack(self) -> int:
        """Instructions that read or write the stack: what found no room in registers. Where x29 is
        no frame pointer, it is a register as others are."""
        return sum("[sp" in line or (self.frame and "[x29" in line) for line in self.body)


def source(isa: Isa, product: str, shapes: Sequence[tuple[int, int]]) -> str:
    """C with a function for each register tile, of all its rows and DEPTH deep."""
    ops = isa.tiles[product]
    parts = [MACROS, vector_operations(isa), isa.helpers, tile_operations(product, isa)]
    for mr, nr in shapes:
        parts.append(tile_loop((mr, nr), product, isa))
        parts.append(filled(FUNCTION, shape=f"{mr}x{nr}", product=product, MR=mr, DEPTH=DEPTH,
                            ROWS=rounded(mr, ops.together), NV=nr // isa.width, A=ops.activations,
                            W=ops.weights, VC=ops.vc))  # fmt: skip
    return "\n".join(parts)


def loops_of(text: str, function: str) -> list[tuple[int, int, list[str]]]:
    """First and last line of each loop of a function, and the function's lines."""
    lines = text.split(f"\n{function}:", 1)[1].split("\n.Lfunc_end", 1)[0].splitlines()
    labels = {line.split(":")[0]: i for i, line in enumerate(lines) if line.startswith(".L")}
    found = []
    for i, line in enumerate(lines):
        target = re.match(r"\s+(?:b|b\.\w+|cbn?z|tbn?z)\s.*?(\.L\w+)$", line)
        if target and labels.get(target[1], i) < i:
            found.append((labels[target[1]], i, lines))
    return found


def instructions(lines: Sequence[str]) -> list[str]:
    return [line.split("//")[0].rstrip() for line in lines if re.match(r"\s+[a-z]", line)]


def inner_loop(text: str, function: str, multiply: str) -> tuple[Loop, Loop | None]:
    """The innermost loop of a function with most multiplications, and the loop around it, if there
    is one, less others that are in it: those are of what is left over."""
    spans = loops_of(text, function)

    def count(lines: Sequence[str]) -> int:
        return sum(re.match(rf"\s+{multiply}\s", line) is not None for line in lines)

    innermost = [
        (a, b, li) for a, b, li in spans
        if not any((c, d) != (a, b) and a <= c and d <= b for c, d, _ in spans)
    ]  # fmt: skip
    first, last, lines = max(innermost, key=lambda s: count(s[2][s[0] : s[1] + 1]))
    body = instructions(lines[first : last + 1])
    frame = any(re.search(r"x29, sp\b", line) for line in lines)
    inner = Loop(tuple(body), count(body), frame)
    around = [(a, b) for a, b, _ in spans if a < first and last < b]
    if not around:
        return inner, None
    a, b = max(around)  # the nearest
    skipped = [i for c, d, _ in innermost if (c, d) != (first, last) for i in range(c, d + 1)]
    before = [lines[i] for i in range(a, first) if i not in skipped]
    after = [lines[i] for i in range(last + 1, b + 1) if i not in skipped]
    return inner, Loop((*instructions(before), "INNER", *instructions(after)), 0, frame)


def cycles(body: Sequence[str], core: str, mca: str) -> float:
    """Cycles of a turn of a loop by a core's model."""
    command = [mca, "-mtriple=aarch64-linux-gnu", f"-mcpu={core}", f"-mattr={ATTRIBUTES}",
               f"-iterations={TURNS}", "-json"]  # fmt: skip
    done = subprocess.run(command, input="\n".join(body) + "\n", capture_output=True, text=True,
                          check=True)  # fmt: skip
    summary = json.loads(done.stdout)["CodeRegions"][0]["SummaryView"]
    return summary["TotalCycles"] / TURNS


def study(mca: str) -> Iterator[dict[str, Any]]:
    """A record for each loop and core."""
    version = re.search(r"LLVM version (\S+)", _said([mca, "--version"]))
    clang = re.search(r"clang version (\S+)", get_toolchain().version)
    assert version and clang
    for (name, product), multiply in LOOPS.items():
        for tile, inner, around in compiled(name, product, defaults(name, product)):
            for core, units in CORES.items():
                if core in NO_MATRICES and name == "neon_i8mm":
                    continue
                taken = cycles(inner.body, core, mca)
                limit = inner.multiplies * UNITS_FOR.get(multiply, 1) / units
                record = {
                    "isa": name, "product": product, "tile": tile, "core": core,
                    "multiply": multiply, "multiplies": inner.multiplies,
                    "instructions": len(inner.body), "stack": inner.stack,
                    "cycles": round(taken, 2), "limit": limit, "share": round(limit / taken, 4),
                    "llvm": version[1], "clang": clang[1],
                }  # fmt: skip
                ops = ISAS[name].tiles[product]
                if ops.block and around:
                    turns = ops.block.depth // (ops.kr * ops.steps)
                    taken = cycles(unrolled(inner, around, turns), core, mca)
                    record["block_share"] = round(limit * turns / taken, 4)
                yield record


def defaults(name: str, product: str) -> list[tuple[int, int]]:
    """The default register tiles of a product."""
    target = ARM.with_isa(name)
    return list(dict.fromkeys(default_tile(target, n, product) for n in COLUMNS))


def compiled(
    name: str, product: str, shapes: Sequence[tuple[int, int]]
) -> Iterator[tuple[str, Loop, Loop | None]]:
    """Each register tile's name, its innermost loop, and the one around that."""
    text = assembly(source(ISAS[name], product, shapes), ARM.with_isa(name))
    for mr, nr in shapes:
        yield f"{mr}x{nr}", *inner_loop(text, f"tile_{mr}x{nr}", LOOPS[name, product])


def unrolled(inner: Loop, around: Loop, turns: int) -> tuple[str, ...]:
    """What runs in a turn of the loop around another."""
    place = around.body.index("INNER")
    return (*around.body[:place], *inner.body * turns, *around.body[place + 1 :])


def spilling(name: str, product: str) -> Iterator[tuple[str, int]]:
    """Each tile that the tuner tries, and how often its inner loop touches the stack."""
    for tile, inner, _ in compiled(name, product, list(tiles(ARM.with_isa(name), product))):
        yield tile, inner.stack


def page(records: Sequence[Mapping[str, Any]]) -> str:
    """A row for each loop, a column for each core."""
    versions = ", ".join(sorted({f"clang {r['clang']}, llvm-mca {r['llvm']}" for r in records}))
    head = ("instruction set", "of", "tile", "multiply", "instructions", "multiplying", "stack")
    left, right = ["---"] * 4, ["--:"] * (3 + len(CORES))
    rows = [(*head, *CORES), (*left, *right)]
    for key in dict.fromkeys((r["isa"], r["product"], r["tile"]) for r in records):
        of = {r["core"]: r for r in records if (r["isa"], r["product"], r["tile"]) == key}
        r = next(iter(of.values()))
        rows.append((f"`{r['isa']}`", r["product"], r["tile"], f"`{r['multiply']}`",
                     str(r["instructions"]), str(r["multiplies"]), str(r["stack"]),
                     *(_share(of.get(core)) for core in CORES)))  # fmt: skip
    return f"{versions}\n\n{table(rows)}"


def _share(record: Mapping[str, Any] | None) -> str:
    if record is None:
        return ""
    share = f"{record['share']:.0%}"
    share = share if record["share"] >= 0.9 else f"**{share}**"
    return f"{share} ({record['block_share']:.0%})" if "block_share" in record else share


def _said(command: Sequence[str]) -> str:
    return subprocess.run(command, capture_output=True, text=True, check=True).stdout


def main() -> None:
    parser = argparse.ArgumentParser(description="Inner loops on ARM against the issue limit.")
    parser.add_argument("--mca", default="", help="llvm-mca: run the loops on models of cores")
    parser.add_argument("--table", action="store_true", help="write the table into arm_loops.md")
    parser.add_argument("--tiles", action="store_true", help="look for spills in all tiles")
    given = parser.parse_args()
    if given.mca:
        records = list(study(given.mca))
        RESULTS.write_text("".join(json.dumps(r) + "\n" for r in records), encoding="utf-8")
        print(page(records))
    if given.tiles:
        for name, product in LOOPS:
            print(name, product, *(f"{s}:{n}" for s, n in spilling(name, product)))
    if given.table:
        held = [json.loads(line) for line in RESULTS.read_text("utf-8").splitlines()]
        fill(PAGE, {"loops": page(held)})


if __name__ == "__main__":
    main()
