/* The CPU kernels: one pass over X for X^T phi(X v), and fused vector updates.
 *
 * native.py compiles this file once per machine. TYPED repeats every function for float (suffix _f)
 * and double (_d). Matrices are row-major. Sums over rows or elements are taken in parts of a fixed
 * size and added in order, so no result depends on the number of threads; the parts are handed out
 * dynamically, because on a shared machine equal shares wait for the slowest core.
 */
#include <math.h>
#include <stddef.h>
#include <string.h>

enum { PHI_DIAGONAL = 0, PHI_SOFTMAX = 1, PHI_BLOCKS = 2 };
enum { RUNNING = 0, CONVERGED = 1, CURVATURE = 2, NOT_FINITE = 3 };
enum { MAX_PARTS = 256, PART = 16384, MAX_COLUMNS = 256 };

#define MIN(a, b) ((a) < (b) ? (a) : (b))
#define MAX(a, b) ((a) > (b) ? (a) : (b))

static long part_size(long n) { return MAX(PART, (n + MAX_PARTS - 1) / MAX_PARTS); }
static long part_count(long n) { return (n + part_size(n) - 1) / part_size(n); }

/* call(s) with t, lo and hi of every part of n elements. A single part does not enter OpenMP, whose
 * entry alone takes longer than a small vector. */
#define PART_BOUNDS const long lo = t * part_size(n), hi = MIN(n, lo + part_size(n))
#define EACH_PART(call)                                                         \
    do {                                                                        \
        const long parts = part_count(n);                                       \
        if (parts <= 1 || threads == 1)                                         \
            for (long t = 0; t < parts; t++) {                                  \
                PART_BOUNDS;                                                    \
                call;                                                           \
            }                                                                   \
        else                                                                    \
            _Pragma("omp parallel for schedule(dynamic, 1) num_threads(threads)") \
            for (long t = 0; t < parts; t++) {                                  \
                PART_BOUNDS;                                                    \
                call;                                                           \
            }                                                                   \
    } while (0)

#define CAT_(a, b) a##b
#define CAT(a, b) CAT_(a, b)

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
