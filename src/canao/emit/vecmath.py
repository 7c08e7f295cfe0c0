"""Element-wise functions over `vf`, written once over the ISA table.

Coefficients were fitted for CANAO by weighted least squares on Chebyshev nodes. Largest errors
in float32 on [-12, 12] (tests/compiler/test_vecmath.py): exp 3e-7 and tanh 4e-7 relative; erf and
sigmoid 5e-7 absolute; both forms of gelu, silu and softplus 5e-7 * max(1, |x|); xielu, which is
made of exp and select, 1e-6 * max(1, x^2). The error of log is 3e-7 * max(1, |log x|) everywhere.
"""

from __future__ import annotations

from canao.emit.language import C11, Language
from canao.emit.writer import fill
from canao.graph.ops import OPS

# What row programs have beside the ops of graph/ops.py, as those: C for operands {0}, {1}, ...
STEPS = {"copy": "{0}", "fma": "vf_fma({0}, {1}, {2})"}
# Steps whose functions are among the `helpers`, as few models have them, and which those are.
RARE = {"log": ("log",)}


def vector_code(op: str, *operands: str) -> str:
    """C for a step of a row program on vectors."""
    return (STEPS.get(op) or OPS[op].vector).format(*operands)


_UPTO = """\
$inline vf vf_load_upto(${pointer}const float *p, $int64 n)
{
    return n >= VF ? vf_load(p) : vf_load_n(p, n);
}
$inline void vf_store_upto(${pointer}float *p, vf v, $int64 n)
{
    if (n >= VF)
        vf_store(p, v);
    else
        vf_store_n(p, v, n);
}
"""
_FUNCTIONS = """\
/* 2^n * p(r) with x = n ln 2 + r; results below the least normal number become it. */
$inline vf vf_exp(vf x)
{
    x = vf_min(vf_max(x, vf_set1(-87.3f)), vf_set1(88.0f));
    const vf n = vf_round(vf_mul(x, vf_set1(1.44269504f)));
    vf r = vf_fma(n, vf_set1(-0.693145752f), x);
    r = vf_fma(n, vf_set1(-1.42860677e-6f), r);
    vf p = vf_set1(0.00137513814f);
    p = vf_fma(p, r, vf_set1(0.00836892343f));
    p = vf_fma(p, r, vf_set1(0.0416695342f));
    p = vf_fma(p, r, vf_set1(0.166665184f));
    p = vf_fma(p, r, vf_set1(0.499999886f));
    p = vf_fma(vf_mul(r, r), p, vf_add(r, vf_set1(1.0f)));
    return vf_ldexp(p, n);
}

/* 2^x for x <= 0; results below the least normal number become it. */
$inline vf vf_exp2(vf x)
{
    x = vf_max(x, vf_set1(-126.0f));
    const vf n = vf_round(x), r = vf_sub(x, n);
    vf p = vf_set1(0.00132764713f);
    p = vf_fma(p, r, vf_set1(0.00967554096f));
    p = vf_fma(p, r, vf_set1(0.0555071309f));
    p = vf_fma(p, r, vf_set1(0.240221202f));
    p = vf_fma(p, r, vf_set1(0.693146944f));
    p = vf_fma(p, r, vf_set1(1.00000012f));
    return vf_ldexp(p, n);
}

/* x P(x^2) / Q(x^2) on [-4, 4], where erf has reached 1 in float32. */
$inline vf vf_erf(vf x)
{
    x = vf_min(vf_max(x, vf_set1(-4.0f)), vf_set1(4.0f));
    const vf t = vf_mul(x, x);
    vf p = vf_set1(1.97490886e-6f), q = vf_set1(3.74809642e-5f);
    p = vf_fma(p, t, vf_set1(2.88027629e-4f));
    q = vf_fma(q, t, vf_set1(1.21622288e-3f));
    p = vf_fma(p, t, vf_set1(4.00309078e-3f));
    q = vf_fma(q, t, vf_set1(1.54433120e-2f));
    p = vf_fma(p, t, vf_set1(5.34657612e-2f));
    q = vf_fma(q, t, vf_set1(0.116471104f));
    p = vf_fma(p, t, vf_set1(0.196236148f));
    q = vf_fma(q, t, vf_set1(0.507240951f));
    p = vf_fma(p, t, vf_set1(1.12837899f));
    q = vf_fma(q, t, vf_set1(1.0f));
    return vf_div(vf_mul(x, p), q);
}

$inline vf vf_sigmoid(vf x)
{
    return vf_div(vf_set1(1.0f), vf_add(vf_set1(1.0f), vf_exp(vf_sub(vf_set1(0.0f), x))));
}

/* x P(x^2) / Q(x^2), fitted for its relative error on [-8, 8]; beyond, it is 1 but for 2e-7. */
$inline vf vf_tanh(vf x)
{
    x = vf_max(vf_set1(-8.0f), vf_min(vf_set1(8.0f), x));
    const vf y = vf_mul(x, x);
    vf p = vf_set1(1.52317825e-08f), q = vf_set1(8.52300177e-07f);
    p = vf_fma(p, y, vf_set1(2.18956367e-05f));
    q = vf_fma(q, y, vf_set1(3.41138865e-04f));
    p = vf_fma(p, y, vf_set1(3.57165705e-03f));
    q = vf_fma(q, y, vf_set1(2.61646675e-02f));
    p = vf_fma(p, y, vf_set1(1.34445477e-01f));
    q = vf_fma(q, y, vf_set1(4.67778750e-01f));
    p = vf_fma(p, y, vf_set1(1.0f));
    q = vf_fma(q, y, vf_set1(1.0f));
    return vf_div(vf_mul(x, p), q);
}

/* max(x, 0) + log(1 + e^-|x|), log(1 + t) = 2 artanh(t / (2 + t)) by its series. */
$inline vf vf_softplus(vf x)
{
    const vf t = vf_exp(vf_sub(vf_set1(0.0f), vf_abs(x)));
    const vf z = vf_div(t, vf_add(t, vf_set1(2.0f))), y = vf_mul(z, z);
    vf p = vf_set1(1.0f / 13.0f);
    p = vf_fma(p, y, vf_set1(1.0f / 11.0f));
    p = vf_fma(p, y, vf_set1(1.0f / 9.0f));
    p = vf_fma(p, y, vf_set1(1.0f / 7.0f));
    p = vf_fma(p, y, vf_set1(0.2f));
    p = vf_fma(p, y, vf_set1(1.0f / 3.0f));
    p = vf_fma(p, y, vf_set1(1.0f));
    return vf_fma(vf_add(z, z), p, vf_max(x, vf_set1(0.0f)));
}

$inline vf vf_gelu(vf x)
{
    const vf h = vf_mul(x, vf_set1(0.5f));
    return vf_fma(h, vf_erf(vf_mul(x, vf_set1(0.707106781f))), h);
}

$inline vf vf_gelu_tanh(vf x)
{
    const vf cube = vf_mul(vf_mul(x, x), x);
    const vf u = vf_mul(vf_fma(cube, vf_set1(0.044715f), x), vf_set1(0.797884561f));
    const vf h = vf_mul(x, vf_set1(0.5f));
    return vf_fma(h, vf_tanh(u), h);
}
"""
_LOG = """\
/* x = m 2^n with m near 1, and log m = 2 artanh((m - 1) / (m + 1)) by its series. Numbers below the
   least normal one count as it; -inf at 0, NaN below. */
$inline vf vf_log(vf x)
{
    const vf one = vf_set1(1.0f);
    const vf outside = vf_sub(vf_sqrt(x), vf_div(one, vf_abs(x)));
    vf n = vf_set1(0.0f), over;
    vf m = vf_min(vf_max(x, vf_set1(1.17549435e-38f)), vf_set1(3.40282347e38f));
    over = vf_sub(one, m);
    n = vf_select(over, vf_set1(-126.0f), n);
    m = vf_select(over, vf_mul(m, vf_set1(8.50705917e37f)), m);
${halvings}
    const vf z = vf_div(vf_sub(m, one), vf_add(m, one)), y = vf_mul(z, z);
    vf p = vf_set1(1.0f / 9.0f);
    p = vf_fma(p, y, vf_set1(1.0f / 7.0f));
    p = vf_fma(p, y, vf_set1(0.2f));
    p = vf_fma(p, y, vf_set1(1.0f / 3.0f));
    p = vf_fma(vf_mul(z, y), p, z);
    p = vf_fma(n, vf_set1(1.42860677e-6f), vf_add(p, p));
    return vf_select(x, vf_fma(n, vf_set1(0.693145752f), p), outside);
}
"""
# Numbers above the first are made 2^second times smaller, one after the other.
_HALVINGS = tuple((f"{2.0**k!r}f", k) for k in (64, 32, 16, 8, 4, 2, 1)) + (("1.41421356f", 1),)
_HALVING = """\
    over = vf_sub(m, vf_set1($least));
    n = vf_select(over, vf_add(n, vf_set1($power.0f)), n);
    m = vf_select(over, vf_mul(m, vf_set1($factor)), m);"""
_TAKE = """\
/* Lane i: element at[i * next] of row i of p. Elements are `step` floats apart, rows `apart`. */
static vf vf_take(${pointer}const float *p, $int64 apart, $int64 step, \
${pointer}const $int32 *at, $int64 next,
                  $int64 n)
{
    float t[VF] = {0};
    if (n >= VF)
        for ($int64 i = 0; i < VF; i++)
            t[i] = p[i * apart + at[i * next] * step];
    else
        for ($int64 i = 0; i < n; i++)
            t[i] = p[i * apart + at[i * next] * step];
    return vf_load(t);
}
"""
_STRIDED = """\
$inline vf vf_gather(${pointer}const float *p, $int64 step, $int64 n)
{
    float t[VF];
    for ($int64 i = 0; i < VF; i++)
        t[i] = i < n ? p[i * step] : 0.0f;
    return vf_load(t);
}
"""


def functions(language: Language = C11) -> str:
    """Loads and stores of the last lanes, and the element-wise functions, of `vf`."""
    return fill(_UPTO + _FUNCTIONS, **language.words())


def helpers(language: Language = C11) -> dict[str, str]:
    """Functions that only some kernels call (`RowCode.needs`), by their names."""
    words = language.words()
    halvings = "\n".join(
        fill(_HALVING, least=least, power=k, factor=f"{2.0**-k!r}f") for least, k in _HALVINGS
    )
    return {"strided": fill(_STRIDED, **words), "take": fill(_TAKE, **words),
            "log": fill(_LOG, halvings=halvings, **words)}  # fmt: skip
