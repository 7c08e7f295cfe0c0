"""OpenCL C for attention: a query for each work-item, a few keys at a time, a running softmax.

Causal attention is two kernels: one that puts new keys and values into the cache, and one that
reads them there.
"""

from __future__ import annotations

from canao.emit.arguments import IDS, Arguments
from canao.emit.c.kernel import KernelText
from canao.emit.expressions import expression
from canao.emit.language import OPENCL
from canao.emit.opencl.kernel import kernel
from canao.emit.writer import Writer, number
from canao.fuse.access import Access
from canao.fuse.forms.attention import Attention
from canao.graph.dtypes import F32
from canao.graph.ir import Graph
from canao.lower.batches import batch_of
from canao.lower.opencl.attention import ItemAttentionPlan, depth
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
        self.kind = "float"
        if step.cache is not None and step.cache.layout.dtype != F32:
            self.kind = "half"
            self.needs.add("load_f16")

    def text(self) -> KernelText:
        body = self._append() if self.step.appends else self._attend()
        cached = self.kind if self.step.cache is not None else ""
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
        form, w, e = self.form, Writer(), expression
        assert self.step.cache is not None
        layout = self.step.cache.layout
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
            w.line(f"for (int i = 0; i < {count}; i++)")
            value = f"{name}[i * {e(of_element)}]"
            w.line(f"    {name}_to[i] = {value};" if self.kind == "float"
                   else f"    vstore_half({value}, i, {name}_to);")  # fmt: skip
        return w

    def _attend(self) -> Writer:
        form, w, e = self.form, Writer(), expression
        w.depth = 1
        w.line("const int t = get_global_id(0), head = get_global_id(1);")
        w.line(f"if (t >= {e(form.q.shape[-2])} || t < first)")
        w.line("    return;")
        w.line(f"__global const float *q = {self._of(form.q)} + t * {e(form.q.strides[-2])};")
        keys, values = self._keys(w)
        for v, count in self._vectors(self.d):
            w.line(f"const vf q{v} = {self._load('q', v, count, 1, 'float')};")
        for v, _ in self._vectors(self.dv):
            w.line(f"vf c{v} = vf_set1(0.0f);")
        w.line(f"float top = {_LEAST}, sum = 0.0f;")
        self._bounds(w)
        with w.block(f"for (int key = low; key < high; key += {self.plan.keys})"):
            self._block(w, keys, values)
        w.line("const float scale = 1.0f / sum;")
        w.line(f"__global float *o = out + head * {e(batch_of(form.q.shape, form.store)[1])} + "
               f"t * {e(form.store[-2])};")  # fmt: skip
        for v, count in self._vectors(self.dv):
            value = f"vf_mul(c{v}, vf_set1(scale))"
            place = f"o + {v} * VF"
            w.line(f"vf_store_n({place}, {value}, {count});" if count
                   else f"vf_store({place}, {value});")  # fmt: skip
        return w

    def _vectors(self, width: int) -> list[tuple[int, int]]:
        """Each vector of a row of so many elements, with how many it has if it is not full."""
        full = [(v, 0) for v in range(width // self.vector)]
        return full + ([(width // self.vector, width % self.vector)] if width % self.vector else [])

    def _load(self, pointer: str, v: int, count: int, step: object, kind: str) -> str:
        """A vector of a row whose elements are `step` apart."""
        if kind != "float":
            place = f"{pointer} + {v} * VF"
            return f"load_f16_n({place}, {count})" if count else f"load_f16({place})"
        if step == 1:
            place = f"{pointer} + {v} * VF"
            return f"vf_load_n({place}, {count})" if count else f"vf_load({place})"
        self.needs.add("strided")
        return f"vf_gather({pointer} + {v} * VF * {step}, {step}, {count or 'VF'})"

    def _keys(self, w: Writer) -> tuple[tuple[str, object], tuple[str, object]]:
        """Where a head's keys and values begin; for each the stride of tokens and of elements."""
        form, e = self.form, expression
        if self.step.cache is not None:
            layout = self.step.cache.layout
            w.line(f"__global const {self.kind} *k = cache + head * {layout.key_head};")
            w.line(f"__global const {self.kind} *v = cache + {layout.values} + head * "
                   f"{layout.value_head};")  # fmt: skip
            return (str(self.d), 1), (str(self.dv), 1)
        w.line(f"__global const float *k = {self._of(form.k)};")
        w.line(f"__global const float *v = {self._of(form.v)};")
        k, v = form.k.strides, form.v.strides
        return ((e(k[-1]), 1 if k[-2] == 1 else e(k[-2])),
                (e(v[-2]), 1 if v[-1] == 1 else e(v[-1])))  # fmt: skip

    def _bounds(self, w: Writer) -> None:
        form = self.form
        if form.cached:
            w.line("const int low = 0, high = past + t + 1;")
            return
        keys = expression(form.k.shape[-1])
        if form.window is None:
            w.line(f"const int low = 0, high = {keys};")
            return
        before, after = form.window
        w.line(f"const int low = max(0, t - {before}), high = min({keys}, t + {after} + 1);")

    def _block(self, w: Writer, keys: tuple[str, object], values: tuple[str, object]) -> None:
        """Scores of some keys, and what they make of the running softmax."""
        form, count = self.form, self.plan.keys
        for u in range(count):
            w.line(f"const int k{u} = min(key + {u}, high - 1);")
            terms = []
            for v, partial in self._vectors(self.d):
                place = f"k + k{u} * {keys[0]}"
                load = self._load(place, v, partial, keys[1], self.kind)
                w.line(f"const vf x{u}_{v} = {load};")
                terms.append(f"x{u}_{v}")
            total = f"vf_mul(q0, {terms[0]})"
            for v, x in enumerate(terms[1:], 1):
                total = f"vf_fma(q{v}, {x}, {total})"
            score = f"vf_sum({total})"
            if form.scale != 1.0:
                score = f"{score} * {number(form.scale, OPENCL)}"
            w.line(f"float s{u} = {score};")
            for bias in self._biases(f"k{u}"):
                w.line(f"s{u} += {bias};")
            if u:
                w.line(f"s{u} = key + {u} < high ? s{u} : -INFINITY;")
        top = "top"
        for u in range(count):
            top = f"fmax({top}, s{u})"
        w.line(f"const float above = {top};")
        w.line("const float less = exp(top - above);")
        w.line("top = above;")
        for u in range(0, count, 4):
            scores = ", ".join(f"s{x}" for x in range(u, u + 4))
            w.line(f"const float4 p{u} = exp((float4)({scores}) - above);")
        parts = [f"p{u}" for u in range(0, count, 4)]
        w.line(f"const float4 p = {' + '.join(parts)};")
        w.line("sum = fma(sum, less, (p.x + p.y) + (p.z + p.w));")
        for v, partial in self._vectors(self.dv):
            w.line(f"c{v} = vf_mul(c{v}, vf_set1(less));")
            for u in range(count):
                load = self._load(f"v + k{u} * {values[0]}", v, partial, values[1], self.kind)
                w.line(f"c{v} = vf_fma(vf_set1(p{u - u % 4}.s{u % 4}), {load}, c{v});")

    def _biases(self, key: str) -> list[str]:
        """What is added to the score of this query and a key."""
        found, e = [], expression
        for bias in self.form.biases:
            place = f"{self._of(bias.read)} + t * {e(bias.read.strides[-2])} + {key} * " + e(
                bias.read.strides[-1]
            )
            if bias.indices is None:
                found.append(f"*({place})")
                continue
            at = bias.indices
            ids = self.arguments.of(at.base, IDS)
            index = (f"{ids}[{e(at.offset)} + head * {e(batch_of(at.shape, at.strides)[1])} + "
                     f"t * {e(at.strides[-2])} + {key} * {e(at.strides[-1])}]")  # fmt: skip
            found.append(f"*({place} + {index} * {e(bias.step)})")
        return found
