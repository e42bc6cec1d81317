/* The CPU kernels: one pass over X for X^T phi(X v), and fused vector updates.
 *
 * native.py compiles this file once per machine. TYPED repeats every function for float (suffix _f)
 * and double (_d). Matrices are row-major. Sums over rows or elements are taken in parts of a fixed
 * size and added in order, so no result depends on the number of threads; the parts are handed out
 * as threads come for them, because on a shared machine equal shares wait for the slowest core.
 */
#include <math.h>
#include <stddef.h>
#include <string.h>

#include "native_pool.h"

enum { PHI_DIAGONAL = 0, PHI_SOFTMAX = 1, PHI_BLOCKS = 2 };
enum { RUNNING = 0, CONVERGED = 1, CURVATURE = 2, NOT_FINITE = 3 };
/* Below SMALL products of X's elements and columns, waking another thread costs more than it saves. */
enum { SMALL = 1 << 19 };
enum { MAX_PARTS = 256, PART = 16384, MAX_COLUMNS = 256 };

#define MIN(a, b) ((a) < (b) ? (a) : (b))
#define MAX(a, b) ((a) > (b) ? (a) : (b))

static long part_size(long n) { return MAX(PART, (n + MAX_PARTS - 1) / MAX_PARTS); }
static long part_count(long n) { return (n + part_size(n) - 1) / part_size(n); }

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
        share(NAME(CAT(f, _part)), &job, part_count(n), threads);                        \
    } while (0)

#define REAL float
#define NAME(f) CAT(f, _f)
#define EPS 1.1920929e-7
#define ROOT sqrtf
#include "native_typed.h"
#undef REAL
#undef NAME
#undef EPS
#undef ROOT

#define REAL double
#define NAME(f) CAT(f, _d)
#define EPS 2.220446049250313e-16
#define ROOT sqrt
#include "native_typed.h"
