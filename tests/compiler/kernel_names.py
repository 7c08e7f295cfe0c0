"""The grammar of kernels' names, as docs/kernels.md has it: a name is parsed into its parts."""

from __future__ import annotations

import re
from dataclasses import dataclass

from canao.graph.ops import OPS
from canao.isa.registry import ISAS

# A prefix that is renamed is renamed in this line and in docs/kernels.md.
GEMM, BATCHED_GEMM, CAUSAL = "gemm", "batched_gemm", "causal"
# Prefix -> what its sizes are, whether operators follow, and the parts of the plan after the ISA.
PREFIXES: dict[str, tuple[tuple[str, ...], bool, tuple[str, ...]]] = {
    GEMM: (("inputs", "outputs"), True, ("tile", "kc", "mc")),
    "attention": (("heads", "head size"), False, ("tile", "keys")),
    CAUSAL: (("heads", "head size"), False, ("tile", "keys")),
    BATCHED_GEMM: (("batch", "m", "k", "n"), False, ()),
    "rows": (("width",), True, ()),
    "concat": (("width",), False, ()),
    "scan": (("length",), True, ()),
}
_TERM = r"(?:[0-9]+s*|s+)"
_SIZE = rf"{_TERM}(?:p{_TERM})*"  # 384, s, 2ss, sp1: whole numbers, or polynomials in the tokens
_OPS = "|".join(sorted((*OPS, "copy"), key=len, reverse=True))  # the longest that fits
_KINDS = "|".join(sorted(PREFIXES, key=len, reverse=True))
_PRODUCTS = "f32_i8|q7_i8|i8|bf16|f16"  # what is multiplied, where that is not float32
_NAME = re.compile(
    rf"(?P<prefix>{_KINDS})_(?P<sizes>{_SIZE}(?:x{_SIZE})*)"
    rf"(?:_(?P<pieces>[0-9]+))?(?P<near>_near)?(?:_(?P<product>{_PRODUCTS}))?(?P<ops>(?:_(?:{_OPS}))*)_(?P<isa>{'|'.join(ISAS)})"
    r"(?:_(?P<tile>[0-9]+x[0-9]+))?(?:_kc(?P<kc>[0-9]+))?(?:_mc(?P<mc>[0-9]+))?"
    r"(?:_keys(?P<keys>[0-9]+))?(?:_v(?P<version>[0-9]+))?(?P<appends>_append)?"
)
# On GPUs: a tile or keys of a work-item, then how many of them make a group.
_ON_GPU = re.compile(
    rf"(?P<prefix>{_KINDS})_(?P<sizes>{_SIZE}(?:x{_SIZE})*)(?:_(?P<pieces>[0-9]+))?"
    rf"(?:_(?P<product>{_PRODUCTS}))?(?P<ops>(?:_(?:{_OPS}))*)_(?P<isa>cl(?:4|8|16))"
    r"(?:_(?P<tile>[0-9]+x[0-9]+))??(?:_keys(?P<keys>[0-9]+))?(?:_(?P<group>[0-9]+(?:x[0-9]+)?))?"
    r"(?:_d(?P<deep>4))?(?:_v(?P<version>[0-9]+))?(?P<appends>_append)?"
)
_PARTS_ON_GPU = {GEMM: {"tile", "group"}, BATCHED_GEMM: {"tile", "group"}, "rows": {"group"},
                 "attention": {"keys", "group"}, CAUSAL: {"keys", "group"}, "concat": {"group"},
                 "scan": set()}  # fmt: skip


@dataclass(frozen=True)
class KernelName:
    """The parts of a name; `plan` holds tile, kc, mc, keys as far as there are any. `appends`: it
    puts keys and values into the cache, before the kernel that is named by the rest."""

    prefix: str
    sizes: tuple[str, ...]
    ops: tuple[str, ...]
    isa: str
    plan: dict[str, str]
    pieces: int = 0
    near: bool = False
    product: str = ""
    version: int = 1
    appends: bool = False


def parse(name: str) -> KernelName:
    """ValueError for what is no name of a kernel."""
    found = _NAME.fullmatch(name)
    if not found and (found := _ON_GPU.fullmatch(name)):
        return _on_gpu(name, found)
    if not found:
        raise ValueError(f"'{name}' is no name of a kernel")
    prefix, sizes = found["prefix"], tuple(found["sizes"].split("x"))
    known, with_ops, parts = PREFIXES[prefix]
    plan = {part: found[part] for part in ("tile", "kc", "mc", "keys") if found[part]}
    ops = tuple(re.findall(rf"_({_OPS})(?![a-z])", found["ops"]))
    for wrong in (
        len(sizes) != len(known), set(plan) - set(parts), ("tile" in parts) != ("tile" in plan),
        bool(ops) and not with_ops, bool(found["pieces"]) != (prefix == "concat"),
        bool(found["near"]) and prefix != BATCHED_GEMM,
        bool(found["product"]) and prefix not in (GEMM, "attention", CAUSAL),
        bool(found["appends"]) and prefix != CAUSAL,
    ):  # fmt: skip
        if wrong:
            raise ValueError(f"'{name}' has parts that no kernel '{prefix}' has")
    return KernelName(prefix, sizes, ops, found["isa"], plan, int(found["pieces"] or 0),
                      bool(found["near"]), found["product"] or "",
                      int(found["version"] or 1), bool(found["appends"]))  # fmt: skip


def _on_gpu(name: str, found: re.Match[str]) -> KernelName:
    prefix, sizes = found["prefix"], tuple(found["sizes"].split("x"))
    known, with_ops, _ = PREFIXES[prefix]
    plan = {part: found[part] for part in ("tile", "keys", "group") if found[part]}
    ops = tuple(re.findall(rf"_({_OPS})(?![a-z])", found["ops"]))
    if (
        len(sizes) != len(known) or set(plan) != _PARTS_ON_GPU[prefix] or (ops and not with_ops)
        or bool(found["pieces"]) != (prefix == "concat")
        or (found["deep"] and found["product"] not in ("i8", "q7_i8"))
    ):  # fmt: skip
        raise ValueError(f"'{name}' has parts that no kernel '{prefix}' has")
    if found["deep"]:
        plan["deep"] = found["deep"]
    return KernelName(prefix, sizes, ops, found["isa"], plan, int(found["pieces"] or 0),
                      product=found["product"] or "", version=int(found["version"] or 1),
                      appends=bool(found["appends"]))  # fmt: skip
