"""OpenCL C for attention: a query for each work-item, a block of keys at a time, a running softmax.
A group has the block in its memory, keys transposed, so that an item has the scores of a vector of
keys without adding up across vectors.

Causal attention is two kernels: one that puts new keys and values into the cache, and one that
reads them there.
"""

from __future__ import annotations

from canao.emit.arguments import IDS, Arguments, row_type
from canao.emit.c.kernel import KernelText
from canao.emit.expressions import expression
from canao.emit.language import OPENCL
from canao.emit.opencl.kernel import BARRIER, kernel
from canao.emit.writer import Writer, number
from canao.fuse.access import Access
from canao.fuse.forms.attention import Attention
from canao.graph.dtypes import F32, I8, Q8
from canao.graph.ir import Graph
from canao.lower.batches import batch_of
from canao.lower.opencl.attention import ItemAttentionPlan, depth, sums_under_way
from canao.schedule.schedule import Step

# The least number: scores of -infinity are as far below it as any others.
_LEAST = "-3.40282347e38f"


def attention_text(graph: Graph, step: Step, vector: int) -> KernelText:
    """Attention over the keys of the sequence, or causal over those of the cache as well."""
    return _Attention(graph, step, vector).text()


class _Attention:
    def __init__(self, graph: Graph, step: Step, vector: int) -> None:
        form, plan = step.region.form, step.plan
        assert isinstance(form, Attention) and isinstance(plan, ItemAttentionPlan)
        self.graph, self.step, self.form, self.plan = graph, step, form, plan
        self.vector = vector
        self.arguments = Arguments(step.reads, OPENCL)
        self.d, self.dv = depth(form)
        self.needs = set[str]()
        self.cache = step.cache.layout if step.cache is not None else None
        self.kept = self.cache.dtype if self.cache is not None else F32
        self.kind = OPENCL.type_of(self.kept)
        self.scaled = self.cache is not None and self.cache.scales > 0
        if self.kept != F32:
            self.needs.add(f"load_{self.kept}")

    def text(self) -> KernelText:
        body = self._append() if self.step.appends else self._attend()
        cached = self.kind if self.cache is not None else ""
        what = "keys and values into the cache" if self.step.appends else "attention"
        about = f"{what}, heads of {self.d}"
        return KernelText(
            kernel(self.step, self.arguments, body, about, cached), frozenset(self.needs)
        )

    def _of(self, access: Access, head: str = "head") -> str:
        """Where a head of an operand begins."""
        stride = expression(batch_of(access.shape, access.strides)[1])
        return (f"{self.arguments.of(access.base)} + {expression(access.offset)} + {head} * "
                f"{stride}")  # fmt: skip

    def _append(self) -> Writer:
        """Copies a token's key and value into the cache, for each head."""
        form, w, e, layout = self.form, Writer(), expression, self.cache
        assert layout is not None
        w.depth = 1
        w.line("const int t = get_global_id(0), head = get_global_id(1);")
        w.line("if (t >= s)")
        w.line("    return;")
        parts = (
            ("k", form.k, form.k.strides[-1], form.k.strides[-2], self.d, layout.key_head, 0),
            ("v", form.v, form.v.strides[-2], form.v.strides[-1], self.dv, layout.value_head,
             layout.values),
        )  # fmt: skip
        for name, access, of_token, of_element, count, of_head, start in parts:
            w.line(f"__global const float *{name} = {self._of(access)} + t * {e(of_token)};")
            w.line(f"__global {self.kind} *{name}_to = cache + {start} + head * {of_head} + "
                   f"(past + t) * {count};")  # fmt: skip
            value = f"{name}[i * {e(of_element)}]"
            if self.scaled:
                self._append_levels(w, name, value, count)
                continue
            w.line(f"for (int i = 0; i < {count}; i++)")
            w.line(f"    {name}_to[i] = {value};" if self.kind == "float"
                   else f"    vstore_half(to_f16({value}), i, {name}_to);")  # fmt: skip
        return w

    def _append_levels(self, w: Writer, name: str, value: str, count: int) -> None:
        """A key or value as whole numbers of eight bits, and what they are multiples of."""
        kind = row_type(Q8)
        self.needs.add(kind)
        w.line(f"float {name}_top = 0.0f;")
        w.line(f"for (int i = 0; i < {count}; i++)")
        w.line(f"    {name}_top = fmax({name}_top, fabs({value}));")
        w.line(f"const float {name}_by = {kind}_inverse({name}_top);")
        w.line(f"for (int i = 0; i < {count}; i++)")
        w.line(f"    {name}_to[i] = convert_char_sat_rte({value} * {name}_by);")
        w.line(f"({self._scales(name, '')})[past + t] = {name}_top / {I8.levels}.0f;")

    def _scales(self, name: str, constant: str = "const ") -> str:
        """Where the scales of a head's keys or values begin."""
        assert self.cache is not None
        place = self.cache.key_scales if name == "k" else self.cache.value_scales
        return f"(__global {constant}float *)(cache + {place}) + head * {self.cache.scales}"

    def _attend(self) -> Writer:
        """All items of a group go through the same blocks of keys, as they wait for each other;
        what an item does not need of a block is masked."""
        form, plan, w, e = self.form, self.plan, Writer(), expression
        w.depth = 1
        queries = e(form.q.shape[-2])
        w.line(f"__local float kt[{self._whole(self.d) * plan.keys}];")
        if plan.values:
            w.line(f"__local float vt[{plan.keys * self._whole(self.dv)}];")
        w.line("const int lane = get_local_id(0), head = get_global_id(1);")
        w.line(f"const int start = get_group_id(0) * {plan.items}, t = start + lane;")
        w.line(f"const int mine = t < {queries} && t >= first, query = min(t, {queries} - 1);")
        w.line(f"__global const float *q = {self._of(form.q)} + query * {e(form.q.strides[-2])};")
        keys, values = self._keys(w)
        for v, _ in self._vectors(self.dv):
            w.line(f"vf c{v} = vf_set1(0.0f);")
        w.line(f"float top = {_LEAST}, sum = 0.0f;")
        self._bounds(w, queries)
        with w.block(f"for (int key = from; key < to; key += {plan.keys})"):
            w.line(BARRIER)
            self._copy(w, "k", self.d, *keys, transposed=True)
            if plan.values:
                self._copy(w, "v", self.dv, *values, transposed=False)
            w.line(BARRIER)
            with w.block("if (mine && key < high)"):
                self._block(w, values)
        with w.block("if (mine)"):
            w.line("const float scale = 1.0f / sum;")
            w.line(f"__global float *o = out + head * "
                   f"{e(batch_of(form.q.shape, form.store)[1])} + t * {e(form.store[-2])};")
            for v, count in self._vectors(self.dv):
                value, place = f"vf_mul(c{v}, vf_set1(scale))", f"o + {v} * VF"
                w.line(f"vf_store_n({place}, {value}, {count});" if count
                       else f"vf_store({place}, {value});")  # fmt: skip
        return w

    def _whole(self, width: int) -> int:
        """Elements of a row that is filled up to whole vectors."""
        return -(-width // self.vector) * self.vector

    def _vectors(self, width: int) -> list[tuple[int, int]]:
        """Each vector of a row of so many elements, with how many it has if it is not full."""
        full = [(v, 0) for v in range(width // self.vector)]
        return full + ([(width // self.vector, width % self.vector)] if width % self.vector else [])

    def _load(self, pointer: str, v: int, count: int, step: object, kind: str) -> str:
        """A vector of a row whose elements are `step` apart."""
        if kind != "float":
            place = f"{pointer} + {v} * VF"
            load = f"load_{self.kept}"
            return f"{load}_n({place}, {count})" if count else f"{load}({place})"
        if step == 1:
            place = f"{pointer} + {v} * VF"
            return f"vf_load_n({place}, {count})" if count else f"vf_load({place})"
        self.needs.add("strided")
        return f"vf_gather({pointer} + {v} * VF * {step}, {step}, {count or 'VF'})"

    def _keys(self, w: Writer) -> tuple[tuple[str, object], tuple[str, object]]:
        """Where a head's keys and values begin; for each the stride of tokens and of elements."""
        form, e = self.form, expression
        if self.cache is not None:
            layout = self.cache
            w.line(f"__global const {self.kind} *k = cache + head * {layout.key_head};")
            w.line(f"__global const {self.kind} *v = cache + {layout.values} + head * "
                   f"{layout.value_head};")  # fmt: skip
            for name in "kv" if self.scaled else "":
                w.line(f"__global const float *{name}s = {self._scales(name)};")
            return (str(self.d), 1), (str(self.dv), 1)
        w.line(f"__global const float *k = {self._of(form.k)};")
        w.line(f"__global const float *v = {self._of(form.v)};")
        k, v = form.k.strides, form.v.strides
        return ((e(k[-1]), 1 if k[-2] == 1 else e(k[-2])),
                (e(v[-2]), 1 if v[-1] == 1 else e(v[-1])))  # fmt: skip

    def _bounds(self, w: Writer, queries: str) -> None:
        """The keys that a query sees, low .. high - 1, and those that any of the group sees."""
        form, items = self.form, self.plan.items
        keys = expression(form.k.shape[-1])
        w.line(f"const int last = min(start + {items}, {queries}) - 1, idle = last < first;")
        if form.cached:
            w.line("const int low = 0, high = past + t + 1;")
            w.line("const int from = 0, to = idle ? 0 : past + last + 1, end = past + s;")
            return
        w.line(f"const int end = {keys};")
        if form.window is None:
            w.line("const int low = 0, high = end, from = 0, to = idle ? 0 : end;")
            return
        before, after = form.window
        w.line(f"const int low = max(0, t - {before}), high = min(end, t + {after} + 1);")
        w.line(f"const int from = max(0, start - {before});")
        w.line(f"const int to = idle ? 0 : min(end, last + {after} + 1);")

    def _copy(
        self, w: Writer, name: str, width: int, of_token: str, of_element: object, transposed: bool
    ) -> None:
        """Puts a block of keys or values into the group's memory, a vector for each item in turn.
        Keys after the last one are copies of it."""
        keys, vectors = self.plan.keys, -(-width // self.vector)
        with w.block(f"for (int i = lane; i < {keys * vectors}; i += {self.plan.items})"):
            w.line(f"const int u = i / {vectors}, x = i % {vectors};")
            w.line("const int of_key = min(key + u, end - 1);")
            w.line(f"__global const {self.kind} *row = {name} + of_key * {of_token};")
            tail = width % self.vector
            load = "vf_load(row + x * VF)"
            if self.kind != "float":
                load = f"load_{self.kept}(row + x * VF)"
            elif of_element != 1:
                self.needs.add("strided")
                left = f"min(VF, {width} - x * VF)" if tail else "VF"
                load = f"vf_gather(row + x * VF * {of_element}, {of_element}, {left})"
            if tail and of_element == 1:
                load = f"vf_keep({load}, {width} - x * VF, 0.0f)"
            if self.scaled:
                load = f"vf_mul({load}, vf_set1({name}s[of_key]))"
            w.line(f"const vf y = {load};")
            if not transposed:
                w.line(f"vf_store(vt + u * {self._whole(width)} + x * VF, y);")
                return
            for lane in range(self.vector):
                w.line(f"kt[(x * VF + {lane}) * {keys} + u] = y.s{lane:x};")

    def _block(self, w: Writer, values: tuple[str, object]) -> None:
        """What a block of keys makes of the running softmax."""
        parts = range(self.plan.keys // self.vector)
        self._scores(w, parts)
        self._weights(w, parts)
        values_of = self._vectors(self.dv)
        chains = sums_under_way(self.form, self.vector)
        for v, _ in values_of:
            w.line(f"c{v} = vf_mul(c{v}, vf_set1(less));")
            for more in range(1, chains):
                w.line(f"vf c{v}_{more} = vf_set1(0.0f);")
        for u in range(self.plan.keys):
            p, lane = divmod(u, self.vector)
            chain = f"_{u % chains}" if u % chains else ""
            with w.block(""):
                weight = f"p{p}.s{lane:x}"
                if not self.plan.values:
                    w.line(f"const int u = min(key + {u}, end - 1);")
                    weight += " * vs[u]" if self.scaled else ""
                w.line(f"const vf weight = vf_set1({weight});")
                for v, partial in values_of:
                    load = f"vf_load(vt + {u * self._whole(self.dv)} + {v} * VF)"
                    if not self.plan.values:
                        load = self._load(f"v + u * {values[0]}", v, partial, values[1], self.kind)
                    w.line(f"c{v}{chain} = vf_fma(weight, {load}, c{v}{chain});")
        for v, _ in values_of:
            for more in range(1, chains):
                w.line(f"c{v} = vf_add(c{v}, c{v}_{more});")

    def _scores(self, w: Writer, parts: range) -> None:
        """Scores s0, s1 and so on of a vector of keys each; -infinity for keys that are not seen.
        """
        form = self.form
        for p in parts:
            w.line(f"vf s{p} = vf_set1(0.0f);")
        whole = self.d - self.d % self.vector
        if whole:
            with w.block(f"for (int x = 0; x < {whole}; x += VF)"):
                w.line("const vf y = vf_load(q + x);")
                self._add_products(w, range(self.vector), "x + {}")
        if self.d > whole:
            w.line(f"const vf y = vf_load_n(q + {whole}, {self.d - whole});")
            self._add_products(w, range(self.d - whole), f"{whole} + {{}}")
        for p in parts:
            if form.scale != 1.0:
                w.line(f"s{p} = vf_mul(s{p}, vf_set1({number(form.scale, OPENCL)}));")
            for bias in self._biases(p):
                w.line(f"s{p} = vf_add(s{p}, {bias});")
            w.line(f"s{p} = vf_keep(s{p}, high - key - {p} * VF, -INFINITY);")
            if form.window is not None:
                w.line(f"s{p} = vf_from(s{p}, low - key - {p} * VF, -INFINITY);")

    def _weights(self, w: Writer, parts: range) -> None:
        """The keys' weights p0, p1 and so on, and `less`, what those before them count for now."""
        most = "s0"
        for p in parts[1:]:
            most = f"vf_max({most}, s{p})"
        w.line(f"const float above = fmax(top, vf_top({most}));")
        w.line("const float less = vf_exp(vf_set1(top - above)).s0;")
        w.line("top = above;")
        for p in parts:
            w.line(f"const vf p{p} = vf_exp(vf_sub(s{p}, vf_set1(above)));")
        total = "p0"
        for p in parts[1:]:
            total = f"vf_add({total}, p{p})"
        w.line(f"sum = fma(sum, less, vf_sum({total}));")

    def _add_products(self, w: Writer, elements: range, place: str) -> None:
        """What some elements of the query, in y, add to the scores."""
        keys = self.plan.keys
        for i in elements:
            with w.block(""):
                w.line(f"const vf of_query = vf_set1(y.s{i:x});")
                for p in range(keys // self.vector):
                    at = f"kt + ({place.format(i)}) * {keys} + {p} * VF"
                    w.line(f"s{p} = vf_fma(of_query, vf_load({at}), s{p});")

    def _biases(self, part: int) -> list[str]:
        """What is added to the scores of this query and a vector of keys."""
        found, e = [], expression
        for bias in self.form.biases:
            step = bias.read.strides[-1]
            place = f"{self._of(bias.read)} + query * {e(bias.read.strides[-2])}"
            if bias.indices is None and step == 0:
                found.append(f"vf_set1(*({place}))")
                continue
            if bias.indices is None and step == 1:
                found.append(f"vf_load({place} + key + {part} * VF)")
                continue
            if bias.indices is not None:
                at = bias.indices
                ids = self.arguments.of(at.base, IDS)
                row = (f"{ids} + {e(at.offset)} + head * "
                       f"{e(batch_of(at.shape, at.strides)[1])} + query * {e(at.strides[-2])}")
            elements = []
            for lane in range(self.vector):
                key = f"min(key + {part * self.vector + lane}, end - 1)"
                element = f"{place} + {key} * {e(step)}"
                if bias.indices is not None:
                    element += f" + ({row})[{key} * {e(at.strides[-1])}] * {e(bias.step)}"
                elements.append(f"*({element})")
            found.append(f"(vf)({', '.join(elements)})")
        return found
