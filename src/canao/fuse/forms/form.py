"""Forms: the kinds of kernel that exist. A set of nodes can be one region if it has a form.

    Alias        views that keep the order of bytes: no work
    Rows         any row-local computation: gathers, element-wise ops, norms, softmax over a row
    Concat       rows put together from pieces of others, from table rows and from constants
    Scan         whole numbers of the tokens, such as positions, one after another
    PackedGemm   x W^T with weights packed at compile time, then a row-local epilogue
    BatchedGemm  matmul of two activations, such as a GEMM for each head
    Attention    softmax(q k^T * scale + bias) v by tiles of queries and keys, no scores stored

Rows, and the epilogue of a PackedGemm, may store narrow rows beside their result in float32.

A norm in the epilogue of a packed GEMM, and Attention, join many-to-many ops, which DNNFusion's
table forbids; they are legal because a schedule by tiles exists (blocks of rows; online softmax).

What a form says is true of the nodes on any machine. Whether a backend has a kernel for it is the
backend's to say (`legal` in lower/).
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from canao.fuse.access import Access, producers, resolve
from canao.fuse.forms.attention import Attention, attention_form, causal_form
from canao.fuse.forms.concat import Concat, concat_form
from canao.fuse.forms.rows import MAKES_NARROW, REDUCES, REDUCTIONS, Rows
from canao.fuse.forms.scan import Scan, scan_form
from canao.graph.dtypes import F32, NARROW, DType
from canao.graph.ir import Dim, Graph, Node, Shape, product
from canao.graph.ops import OPS, POINTWISE

# A region has at most one of these, or the two matmuls of attention.
LINEAR = ("linear", "quantized_linear")
HEAVY = (*LINEAR, "matmul", "distance_matmul", "causal_attention")
# Look-ups of ids, and how many constants come before these.
TABLES = {"gather": 1, "quantized_gather": 2}
ROW_LOCAL = (*POINTWISE, *REDUCTIONS, *TABLES, "take_along_axis", "narrow", "rows_of_levels")
_WRITTEN = (F32, *NARROW)  # what row kernels make


@dataclass(frozen=True, slots=True)
class Alias:
    source: str


@dataclass(frozen=True, slots=True)
class PackedGemm:
    """`a` [rows, k] times `weight` [n, k] transposed, plus `bias`, then `epilogue`.

    scales   of the columns, where `weight` is of int8, else ''
    rows     the type of `a`: float32, or Q8 or Q7 by int8, or bf16 or f16 by weights of the same
    """

    a: Access
    weight: str
    bias: str
    k: int
    n: int
    epilogue: Rows
    scales: str = ""
    rows: DType = F32


@dataclass(frozen=True, slots=True)
class BatchedGemm:
    """a [batch..., m, k] times b [batch..., k, n], stored contiguously.

    near, longest   of `distance_matmul`: the table that names a column of b for each distance of
                    two tokens, and the longest sequence that it is for. Only the columns of
                    distances within the sequence are computed. '' and 0: all columns are
    """

    a: Access
    b: Access
    near: str = ""
    longest: int = 0


Form = Alias | Rows | Concat | Scan | PackedGemm | BatchedGemm | Attention
_NAMES = {Alias: "alias", Rows: "rows", Concat: "concat", Scan: "scan", PackedGemm: "gemm",
          BatchedGemm: "batched_gemm", Attention: "attention"}  # fmt: skip


def form_name(form: Form) -> str:
    """What a form is called in kernel names, records and reports."""
    return _NAMES[type(form)]


def form_of(
    graph: Graph, nodes: Sequence[Node], output: str, beside: str = ""
) -> Form | None:
    """The form of a region of `nodes` (in execution order) whose result is `output`; or results,
    where a row computation also stores the narrow rows `beside`."""
    heavy = [n.op for n in nodes if n.op in HEAVY]
    if len(heavy) == 1 and heavy[0] in LINEAR:
        return _product(graph, nodes, output, beside)
    if beside:
        return None if heavy else rows_form(graph, nodes, output, beside=beside)
    if not heavy:
        if any(n.op == "concat" for n in nodes):
            return concat_form(graph, nodes, output)
        if graph.types[output].dtype not in _WRITTEN and not all(OPS[n.op].view for n in nodes):
            return scan_form(graph, nodes, output)
        return _alias(graph, nodes) or rows_form(graph, nodes, output)
    if heavy in (["matmul"], ["distance_matmul"]):
        return _matmul(graph, nodes, output)
    if heavy == ["causal_attention"]:
        return causal_form(graph, nodes, output)
    return attention_form(graph, nodes, output) if heavy == ["matmul", "matmul"] else None


def _alias(graph: Graph, nodes: Sequence[Node]) -> Alias | None:
    if any(n.op != "reshape" for n in nodes):
        return None
    source = nodes[0].inputs[0]
    # A constant has no place in the arena that another value could share.
    return None if source in graph.constants or _inputs(graph, source) else Alias(source)


def _inputs(graph: Graph, name: str) -> bool:
    return any(i.name == name for i in graph.inputs)


def rows_form(
    graph: Graph, nodes: Sequence[Node], output: str, source: str = "", beside: str = ""
) -> Rows | None:
    """The Rows form, if every node computes within rows of one shape; `source` is given."""
    computed = [n for n in nodes if not OPS[n.op].view and n.output != source]
    anchor = computed[-1].output if computed else (source or output)
    full = graph.shape(anchor) or (1,)  # one number is a row of it
    names: dict[str, str] = {source: source} if source else {}
    reads: dict[str, Access] = {}
    lead, width, made = full[:-1], _width(graph, computed, full), producers(nodes)
    for n in nodes:
        shape = graph.shape(n.output) or (1,)
        if n.output == source:
            continue
        if OPS[n.op].view and n.inputs[0] in names:
            if n.op != "reshape" or not _keeps_rows(graph, n, lead, output):
                return None
            names[n.output] = names[n.inputs[0]]
        elif OPS[n.op].view:
            continue
        elif not _row_local(graph, made, n, (lead, width), names, reads):
            return None
        else:
            if shape[:-1] != lead and product(shape[:-1]) != product(lead):
                return None
            names[n.output] = n.output
    if not computed and not source:
        access = resolve(graph, made, output)
        if access is None:
            return None
        reads[output] = access if access.shape else access.broadcast((1,))
        names[output] = output
    if output not in names:
        return None
    rows = Rows(lead, width, tuple(computed), reads, names, names[output], source, beside)
    return rows if not beside or _stores_both(graph, rows) else None


def _stores_both(graph: Graph, rows: Rows) -> bool:
    """Whether the output is whole rows of float32 that the body makes, and what is beside it the
    last that the body makes."""
    kind = graph.types[rows.output]
    made = rows.output in (rows.source, *(n.output for n in rows.body))
    whole = kind.dtype == F32 and kind.shape[-1:] == (rows.width,)
    last = rows.body[-1] if rows.body else None
    return made and whole and last is not None and last.output == rows.beside


def _width(graph: Graph, computed: Sequence[Node], full: Shape) -> Dim:
    """Columns of the frame: those of the result, or of what a reduction to one number reads."""
    last = computed[-1] if computed else None
    if last is not None and last.op in REDUCES:
        return graph.shape(last.inputs[0])[-1]
    return full[-1]


def _keeps_rows(graph: Graph, n: Node, lead: Shape, output: str) -> bool:
    """A reshape in mid-region must keep rows and width; at the end it only renames bytes."""
    before, after = graph.shape(n.inputs[0]), graph.shape(n.output)
    return n.output == output or (before[-1] == after[-1] and product(after[:-1]) == product(lead))


def _row_local(
    graph: Graph, made: Mapping[str, Node], n: Node, frame: tuple[Shape, Dim],
    names: Mapping[str, str], reads: dict[str, Access],
) -> bool:  # fmt: skip
    """Whether `n` can run on one row at a time; fills in how its outside operands are read."""
    shape = graph.shape(n.output) or (1,)
    if n.op not in ROW_LOCAL or graph.types[n.output].dtype not in _WRITTEN:
        return False
    if shape[-1] not in (frame[1], 1) or product(shape[:-1]) != product(frame[0]):
        return False
    if n.op in (*REDUCTIONS, *MAKES_NARROW) and graph.shape(n.inputs[0])[-1] != frame[1]:
        return False  # a pass over a row reduces all of the row
    for position, name in enumerate(n.inputs):
        if name in names:
            if n.op == "take_along_axis" or product(graph.shape(name)[:-1]) != product(frame[0]):
                return False
            continue
        if position < TABLES.get(n.op, 0):
            if name not in graph.constants:
                return False
            continue
        access = resolve(graph, made, name)
        if access is None:
            return False
        wanted = _read_as(graph, n, position, frame[1])
        known = access.broadcast(wanted)
        if reads.setdefault(name, known) != known:
            return False
    return True


def _read_as(graph: Graph, n: Node, position: int, width: Dim) -> Shape:
    """The shape at which row-local `n` reads one of its operands, in rows of `width`. An operand
    of one element for each row is repeated along the row."""
    shape, name = graph.shape(n.output) or (1,), n.inputs[position]
    if n.op in REDUCES:
        return graph.shape(name)
    if n.op == "take_along_axis" and position == 0:
        return (*shape[:-1], graph.shape(name)[-1])
    return shape[:-1] if n.op in TABLES else (*shape[:-1], width)


def _product(
    graph: Graph, nodes: Sequence[Node], output: str, beside: str
) -> PackedGemm | None:
    linear = next(n for n in nodes if n.op in LINEAR)
    a = resolve(graph, producers(nodes), linear.inputs[0])
    weights, scales = linear.inputs[1:], ""
    if linear.op == "quantized_linear":
        weights, scales = (linear.inputs[1], *linear.inputs[3:]), linear.inputs[2]
    constant = all(w in graph.constants for w in (*weights, *([scales] if scales else [])))
    if a is None or not constant or a.base in graph.constants:
        return None
    rows = graph.types[a.base].dtype
    if rows in NARROW and a != Access.of(a.base, a.shape):
        return None  # whole rows only, as they lie in memory with what belongs to each
    n, k = graph.constants[linear.inputs[1]].shape
    before = {x.output for x in nodes[: nodes.index(linear)]}
    feeding = _feeding(nodes, linear)
    rest = [x for x in nodes if x.output not in before or x.output not in feeding]
    epilogue = rows_form(graph, rest, output, linear.output, beside)
    if epilogue is None:
        return None
    bias = weights[1] if len(weights) == 2 else ""
    return PackedGemm(a, weights[0], bias, k, n, epilogue, scales, rows)


def _feeding(nodes: Sequence[Node], linear: Node) -> set[str]:
    """The views through which `linear` reads its left operand."""
    made, name, found = producers(nodes), linear.inputs[0], set[str]()
    while name in made:
        found.add(name)
        name = made[name].inputs[0]
    return found


def _matmul(graph: Graph, nodes: Sequence[Node], output: str) -> BatchedGemm | None:
    matmul = next(n for n in nodes if n.op in HEAVY)
    if any(not OPS[n.op].view for n in nodes if n is not matmul) or output != matmul.output:
        return None
    made = producers(nodes)
    a, b = (resolve(graph, made, name) for name in matmul.inputs[:2])
    if a is None or b is None:
        return None
    near = ("", 0)
    if matmul.op == "distance_matmul":
        near = (matmul.inputs[2], matmul.attribute("longest"))
    batch = graph.shape(output)[:-2]
    a, b = (x.broadcast((*batch, *x.shape[-2:])) for x in (a, b))
    return BatchedGemm(a, b, *near)
