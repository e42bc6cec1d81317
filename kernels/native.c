/* The CPU kernels: one pass over X for X^T phi(X v), and fused vector updates.
 *
 * native.py compiles this file once per machine. TYPED repeats every function for float (suffix _f)
 * and double (_d). Matrices are row-major. Sums over rows or elements are taken in parts of a fixed
 * size and added in order, so no result depends on the number of threads; the parts are handed out
 * as threads come for them, because on a shared machine equal shares wait for the slowest core.
 *
 * fixed_pass.py compiles it once more with definitions ahead of it: FIXED_D and FIXED_PHI (native_pass.h),
 * ONLY_FLOAT or ONLY_DOUBLE.
 */
#include <math.h>
#include <stddef.h>
#include <stdint.h>
#include <stdlib.h>
#include <string.h>
#ifdef __AVX512F__
#include <immintrin.h>
#endif

#include "native_pool.h"

enum { RUNNING = 0, CONVERGED = 1, CURVATURE = 2, NOT_FINITE = 3 };
/* Below SMALL products of X's elements and columns, waking another thread costs more than it saves. */
enum { SMALL = 1 << 18 };
enum { MAX_PARTS = 256, PART = 16384, MAX_SLOTS = 64 };
/* Elements of the sum over the parts of a pass that a thread takes at a time; how many it takes to be shared. */
enum { SUM_PART = 1024, SUM_WORTH = 1 << 16 };
/* Rows of X in a panel (panels.py). */
enum { PANEL = 128 };

/* As in rows.py, in the same order. */
enum { SLOT_PRODUCT, SLOT_COLUMN, SLOT_MATRIX, SLOT_LABELS, SLOT_SCALAR, SLOT_ROW, SLOT_BLOCKS };
enum {
    OP_ADD, OP_SUB, OP_MUL, OP_DIV, OP_POW, OP_NEG, OP_EQ, OP_NE, OP_LT, OP_LE, OP_GT, OP_GE, OP_AND, OP_OR,
    OP_NOT, OP_WHERE, OP_MAXIMUM, OP_MINIMUM, OP_EXP, OP_LOG, OP_LOG1P, OP_EXPM1, OP_SQRT, OP_ABS, OP_SQUARE,
    OP_SIGN, OP_SIGMOID, OP_TANH, OP_RELU, OP_SIN, OP_COS, OP_ERF, OP_SUM, OP_AMAX, OP_AMIN, OP_LOGSUMEXP,
    OP_SOFTMAX, OP_BLOCKS, OP_ONE_HOT
};

/* Operands are slots: z, those from outside, then one result per instruction. */
struct instruction {
    int op, a, b, c, wide;
};

/* Operands of one_pass; one_pass.py fills it. */
struct pass {
    const void *x, *v, *ridge; /* ridge: NULL, or as many as v, or a single one with ridge_step 0 */
    void *out, *work;          /* out: NULL without the product with X^T. work: (parts + 1) * d * k */
    long n, d, k, parts, block, ridge_step;
    double scale, shift;
    int turned, threads;
    long outside, count, result, kept; /* slots from outside, z included; instructions; the slot of phi */
    const int *kinds;
    const void *const *data;
    const struct instruction *program;
    const int *keep; /* slots that are to be written out, and where to */
    void *const *keep_at;
    const void *vt, *panels; /* panels: X once more, or NULL */
};

/* H for a solver, as v -> H v: a pass over the data, or a function of formula.py, whose operands v and H v are
 * among its others. solves.py fills it. */
struct matrix {
    struct pass *pass; /* or NULL */
    void (*function)(void *const *operands, void *scratch, void *gemm);
    void **operands;
    void *scratch, *gemm;
    long n, v_at, out_at;
    int threads;
};

/* Vectors, and columns per tile: as many as leave no register out. WIDE_TILE: of the products with V, two rows
 * at a time. */
#ifdef __AVX512F__
enum { VECTOR_BYTES = 64, MAX_TILE = 5, WIDE_TILE = 10 };
#define FORWARD_TILES(f)                                                    \
    case 3: f(x, d, v, to, R, 4, 3); break;                                 \
    case 4: f(x, d, v, to, R, 4, 4); break;                                 \
    case 5: f(x, d, v, to, R, 4, 5); break;                                 \
    case 6: f(x, d, v, to, R, 2, 6), f(x + 2 * d, d, v, to + 2, R, 2, 6); break;   \
    case 7: f(x, d, v, to, R, 2, 7), f(x + 2 * d, d, v, to + 2, R, 2, 7); break;   \
    case 8: f(x, d, v, to, R, 2, 8), f(x + 2 * d, d, v, to + 2, R, 2, 8); break;   \
    case 9: f(x, d, v, to, R, 2, 9), f(x + 2 * d, d, v, to + 2, R, 2, 9); break;   \
    case 10: f(x, d, v, to, R, 2, 10), f(x + 2 * d, d, v, to + 2, R, 2, 10); break;
#define BACKWARD_TILES(f)                                                   \
    case 3: f(x, d, lo, hi, from, R, to, 4, 3); break;                      \
    case 4: f(x, d, lo, hi, from, R, to, 4, 4); break;                      \
    case 5: f(x, d, lo, hi, from, R, to, 4, 5); break;
#else
#ifdef __AVX__
enum { VECTOR_BYTES = 32 };
#else
enum { VECTOR_BYTES = 16 };
#endif
enum { MAX_TILE = 2, WIDE_TILE = 2 };
#define FORWARD_TILES(f)
#define BACKWARD_TILES(f)
#endif
/* Rows of X to fetch ahead; elements of a stretch of sums that stays in the innermost cache. */
enum { AHEAD = 4, STRETCH = 4096 };
/* Compilers would rather read a vector from memory again at each use, and loads are what there is little of. */
#if defined(__GNUC__) && defined(__AVX512F__)
#define IN_REGISTER(v) __asm__("" : "+v"(v))
#else
#define IN_REGISTER(v) ((void)0)
#endif

#define MIN(a, b) ((a) < (b) ? (a) : (b))
#define MAX(a, b) ((a) > (b) ? (a) : (b))

static long part_size(long n) { return MAX(PART, (n + MAX_PARTS - 1) / MAX_PARTS); }
static long part_count(long n) { return (n + part_size(n) - 1) / part_size(n); }

/* As in cg.py and, for FEW, in runtime/strategies/cg.py. */
enum { RITZ_STEPS = 200, FEW = 10 };

/* The smallest or the largest eigenvalue of the Lanczos matrix behind conjugate gradient's alpha and beta, by
 * bisection on the number of negative pivots; NaN without a step. */
static double ritz(const double *steps, long count, int largest) {
    double diagonal[RITZ_STEPS], square[RITZ_STEPS], low = INFINITY, high = -INFINITY;
    const long wanted = largest ? count : 1;
    for (long i = 0; i < count; i++) {
        const double alpha = i ? steps[2 * i - 2] : 1, beta = i ? MAX(steps[2 * i - 1], 0) : 0;
        diagonal[i] = 1 / steps[2 * i] + beta / alpha;
        square[i] = beta / alpha / alpha;
    }
    for (long i = 0; i < count; i++) { /* Gershgorin's circles */
        const double around = sqrt(square[i]) + (i + 1 < count ? sqrt(square[i + 1]) : 0);
        low = MIN(low, diagonal[i] - around), high = MAX(high, diagonal[i] + around);
    }
    while (count && high - low > 2.3e-16 * (fabs(low) + fabs(high))) {
        const double middle = low + (high - low) / 2;
        long below = 0;
        double pivot = 1;
        if (middle <= low || middle >= high) break;
        for (long i = 0; i < count && below < wanted; i++) {
            pivot = diagonal[i] - middle - square[i] / pivot;
            below += pivot < 0;
            if (pivot == 0) pivot = 1e-300;
        }
        if (below >= wanted)
            high = middle;
        else
            low = middle;
    }
    return count ? low + (high - low) / 2 : NAN;
}

#define CAT_(a, b) a##b
#define CAT(a, b) CAT_(a, b)

/* A job over vectors of n elements in parts of a fixed size. PART(f, call) defines it: in `call`, j holds
 * the operands, t is the part and lo, hi are its bounds. RUN(f, operands) runs it. */
#define PART(f, call)                                                                    \
    static void NAME(CAT(f, _part))(void *data, long t) {                                \
        const struct NAME(vectors) *j = data;                                            \
        const long lo = t * part_size(j->n), hi = MIN(j->n, lo + part_size(j->n));       \
        call;                                                                            \
    }
#define RUN(f, ...)                                                                      \
    do {                                                                                 \
        struct NAME(vectors) job = {.n = n, __VA_ARGS__};                                \
        share(NAME(CAT(f, _part)), &job, part_count(n), n < SMALL ? 1 : threads);        \
    } while (0)

#ifndef ONLY_DOUBLE
#define REAL float
#define NAME(f) CAT(f, _f)
#define NAME_IS_DOUBLE 0
#define EPS 1.1920929e-7
#define ROOT sqrtf
#define POWER powf
#define LOG logf
#define LOG1P log1pf
#define EXPM1 expm1f
#define TANH tanhf
#define SIN sinf
#define COS cosf
#define ERF erff
#define MASKED(count, p) _mm512_maskz_loadu_ps((__mmask16)((1u << (count)) - 1), p)
#define REDUCED(v) _mm512_reduce_add_ps((__m512)(v))
#include "native_exp.h"
#include "native_tiles.h"
#include "native_rows.h"
#include "native_pass.h"
#include "native_typed.h"
#undef REAL
#undef NAME
#undef NAME_IS_DOUBLE
#undef EPS
#undef ROOT
#undef POWER
#undef LOG
#undef LOG1P
#undef EXPM1
#undef TANH
#undef SIN
#undef COS
#undef ERF
#undef MASKED
#undef REDUCED
#endif

#ifndef ONLY_FLOAT
#define REAL double
#define NAME(f) CAT(f, _d)
#define NAME_IS_DOUBLE 1
#define EPS 2.220446049250313e-16
#define ROOT sqrt
#define POWER pow
#define LOG log
#define LOG1P log1p
#define EXPM1 expm1
#define TANH tanh
#define SIN sin
#define COS cos
#define ERF erf
#define MASKED(count, p) _mm512_maskz_loadu_pd((__mmask8)((1u << (count)) - 1), p)
#define REDUCED(v) _mm512_reduce_add_pd((__m512d)(v))
#include "native_exp.h"
#include "native_tiles.h"
#include "native_rows.h"
#include "native_pass.h"
#include "native_typed.h"
#endif
