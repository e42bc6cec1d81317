/* What functions written by bettyc.emit_c are made of. They are compiled one by one (formula.py), with REAL,
 * NAME(f) and NAME_IS_DOUBLE of their type ahead. NaN goes through as torch lets it. */
#include <math.h>
#include <stdint.h>
#include <string.h>

#if NAME_IS_DOUBLE
#define POWER pow
#define ABS fabs
#define OF(function) function
#else
#define POWER powf
#define ABS fabsf
#define OF(function) function##f
#endif
#include "native_exp.h"

/* sgemm_ or dgemm_ of the BLAS that torch calls */
typedef void GEMM(const char *, const char *, const int *, const int *, const int *, const REAL *,
                  const REAL *, const int *, const REAL *, const int *, const REAL *, REAL *, const int *);

static inline REAL exp_(REAL x) { return NAME(exp_)(x); }
static inline REAL log_(REAL x) { return OF(log)(x); }
static inline REAL log1p_(REAL x) { return OF(log1p)(x); }
static inline REAL expm1_(REAL x) { return OF(expm1)(x); }
static inline REAL sqrt_(REAL x) { return OF(sqrt)(x); }
static inline REAL tanh_(REAL x) { return OF(tanh)(x); }
static inline REAL sin_(REAL x) { return OF(sin)(x); }
static inline REAL cos_(REAL x) { return OF(cos)(x); }
static inline REAL erf_(REAL x) { return OF(erf)(x); }
static inline REAL floor_(REAL x) { return OF(floor)(x); }
static inline REAL round_(REAL x) { return OF(rint)(x); }
static inline REAL sign_(REAL x) { return (REAL)((x > 0) - (x < 0)); }
static inline REAL square(REAL x) { return x * x; }
static inline REAL relu_(REAL x) { return x < 0 ? 0 : x; }
static inline REAL sigmoid_(REAL x) { return 1 / (1 + exp_(-x)); }
static inline REAL silu_(REAL x) { return x / (1 + exp_(-x)); }
static inline REAL softplus_(REAL x) { return x > 40 ? x : log1p_(exp_(x)); }
static inline REAL gelu_(REAL x) { return x * ((REAL)0.5 * (1 + erf_(x * (REAL)0.7071067811865476))); }
static inline REAL leaky_relu(REAL x, REAL slope) { return x > 0 ? x : slope * x; }
static inline REAL elu(REAL x, REAL alpha) { return x > 0 ? x : alpha * expm1_(x); }
static inline REAL larger(REAL x, REAL y) { return x > y || x != x ? x : y; }
static inline REAL smaller(REAL x, REAL y) { return x < y || x != x ? x : y; }
static inline REAL bce(REAL z, REAL y) { return relu_(z) - z * y + log1p_(exp_(-ABS(z))); }
static inline long wrapped(int64_t i, long size) { return i < 0 ? i + size : i; }

/* c = alpha a b + beta c of row-major matrices: b and a as BLAS sees them, (n, k)' and (k, m)'. */
static inline void multiply(GEMM *gemm, char turn_b, char turn_a, int n, int m, int k, REAL alpha,
                            const REAL *b, int ldb, const REAL *a, int lda, REAL beta, REAL *c, int ldc) {
    gemm(&turn_b, &turn_a, &n, &m, &k, &alpha, b, &ldb, a, &lda, &beta, c, &ldc);
}

static inline REAL top(const REAL *x, long step, long count) {
    REAL found = x[0];
    for (long j = 1; j < count; j++) found = larger(x[j * step], found);
    return isinf(found) ? 0 : found; /* as torch: exp(-inf - -inf) is not taken */
}

static inline REAL exps(const REAL *x, long step, long count, REAL high) {
    REAL s = 0;
#pragma omp simd reduction(+ : s)
    for (long j = 0; j < count; j++) s += exp_(x[j * step] - high);
    return s;
}

static inline REAL logsumexp(const REAL *x, long step, long count) {
    const REAL high = top(x, step, count);
    return high + log_(exps(x, step, count, high));
}

static inline void softmax(const REAL *x, long step, REAL *y, long to, long count) {
    const REAL high = top(x, step, count);
    REAL s = 0;
#pragma omp simd reduction(+ : s)
    for (long j = 0; j < count; j++) s += y[j * to] = exp_(x[j * step] - high);
#pragma omp simd
    for (long j = 0; j < count; j++) y[j * to] /= s;
}

static inline void log_softmax(const REAL *x, long step, REAL *y, long to, long count) {
    const REAL whole = logsumexp(x, step, count);
#pragma omp simd
    for (long j = 0; j < count; j++) y[j * to] = x[j * step] - whole;
}

static inline REAL xent(const REAL *x, long step, long label, long count) {
    return logsumexp(x, step, count) - x[label * step];
}

static inline REAL soft_xent(const REAL *x, long step, const REAL *y, long with, long count) {
    const REAL whole = logsumexp(x, step, count);
    REAL s = 0;
#pragma omp simd reduction(+ : s)
    for (long j = 0; j < count; j++) s += y[j * with] * (whole - x[j * step]);
    return s;
}
