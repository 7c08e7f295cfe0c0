"""C for each form of region: products with epilogues, attention by tiles, row-local passes.

Every kernel is a function of (s, pointers..., out, scratch, begin, end) over its unit of work:
rows, or (head, row tile) pairs. Register and cache tiles come from the plan; nothing is decided.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace

from canao.emit.attention import attention_kernel
from canao.emit.concat import concat_kernel
from canao.emit.isa import Isa
from canao.emit.kernel import Kernel, mark_unused, op_names, plain, signature, sized
from canao.emit.matmul import matmul_kernel
from canao.emit.product import ProductCode
from canao.emit.rowcode import NO_PANELS, Parameters, RowCode, expression
from canao.emit.scan import scan_kernel
from canao.emit.writer import Writer
from canao.fuse.forms.concat import Concat
from canao.fuse.forms.form import Attention, Matmul, Product
from canao.fuse.forms.rows import Rows, lower
from canao.fuse.forms.scan import Scan
from canao.fuse.group import Region
from canao.graph.ir import Graph
from canao.schedule.kv_cache import Cache
from canao.schedule.plan import Plan


def kernel(
    graph: Graph, region: Region, plan: Plan, isa: Isa, cache: Cache | None = None,
    panels: Mapping[str, int] = NO_PANELS,
) -> Kernel:  # fmt: skip
    """The kernel of a region that is no alias; causal attention has its part of the cache.
    `panels` are the tables that lie in panels of so many rows, as products read them."""
    if isinstance(region.form, Rows):
        return _rows(graph, region, region.form, isa, panels)
    template = _template(graph, region, plan, isa, cache)
    text, units = (sized(t, plan.tile, isa) for t in (template.text, template.units))
    return replace(template, text=text, units=units)


def _template(
    graph: Graph, region: Region, plan: Plan, isa: Isa, cache: Cache | None
) -> Kernel:
    form = region.form
    if isinstance(form, Product):
        return ProductCode(graph, region, form, plan, isa).kernel()
    if isinstance(form, Attention):
        return attention_kernel(form, plan, isa, cache)
    if isinstance(form, Matmul):
        return matmul_kernel(form, isa)
    if isinstance(form, Concat):
        return concat_kernel(form, isa)
    assert isinstance(form, Scan)
    return scan_kernel(form, isa)


def _rows(
    graph: Graph, region: Region, rows: Rows, isa: Isa, panels: Mapping[str, int]
) -> Kernel:
    parameters, body = Parameters(), Writer()
    code = RowCode(graph, rows, lower(graph, rows), isa, parameters, panels)
    body.depth = 1
    mark_unused(body, "s", "scratch")
    code.row_pass(body, code.program.stages)
    w = Writer()
    w.line(f"/* {', '.join(region.ops)} on rows of {rows.width} */")
    w.line(signature(parameters))
    w.line("{")
    w.raw(body.text())
    w.line("}")
    ops = op_names(region) or "_copy"
    name = f"rows_{plain(rows.width)}{ops}_{isa.name}"
    needs = frozenset(code.needs)
    return Kernel(name, w.text(), tuple(parameters.list), expression(rows.rows), needs)
