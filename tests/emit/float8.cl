/* The vectors of row kernels in OpenCL C: float8 under the names that CANAO's row code uses. */
typedef float8 vf;
enum { VF = 8 };

static inline vf vf_load(const float *p) { return vload8(0, p); }
static inline vf vf_load_n(const float *p, long n)
{
    float t[VF];
    for (int i = 0; i < VF; i++)
        t[i] = i < n ? p[i] : 0.0f;
    return vload8(0, t);
}
static inline void vf_store(float *p, vf v) { vstore8(v, 0, p); }
static inline void vf_store_n(float *p, vf v, long n)
{
    float t[VF];
    vstore8(v, 0, t);
    for (int i = 0; i < n; i++)
        p[i] = t[i];
}
static inline vf vf_set1(float x) { return (vf)(x); }
static inline vf vf_add(vf a, vf b) { return a + b; }
static inline vf vf_sub(vf a, vf b) { return a - b; }
static inline vf vf_mul(vf a, vf b) { return a * b; }
static inline vf vf_div(vf a, vf b) { return a / b; }
static inline vf vf_max(vf a, vf b) { return fmax(a, b); }
static inline vf vf_min(vf a, vf b) { return fmin(a, b); }
static inline vf vf_fma(vf a, vf b, vf c) { return fma(a, b, c); }
static inline vf vf_sqrt(vf a) { return sqrt(a); }
static inline vf vf_abs(vf a) { return fabs(a); }
static inline vf vf_round(vf a) { return rint(a); }
static inline vf vf_ldexp(vf a, vf n) { return ldexp(a, convert_int8(n)); }
static inline vf vf_keep(vf v, long n, float fill)
{
    float t[VF];
    vstore8(v, 0, t);
    for (int i = 0; i < VF; i++)
        t[i] = i < n ? t[i] : fill;
    return vload8(0, t);
}
static inline vf vf_select(vf x, vf a, vf b) { return select(b, a, isgreater(x, (vf)(0.0f))); }
static inline float vf_sum(vf v)
{
    const float4 h = v.lo + v.hi;
    const float2 q = h.lo + h.hi;
    return q.x + q.y;
}
static inline float vf_top(vf v)
{
    const float4 h = fmax(v.lo, v.hi);
    const float2 q = fmax(h.lo, h.hi);
    return fmax(q.x, q.y);
}
