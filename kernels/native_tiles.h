/* Products of a few rows of X with a few columns, on registers. Included twice by native.c, with REAL and
 * NAME(f) of the type.
 *
 * V is kept as (k, d), so that both directions run along rows of X. A tile of ROWS rows and COLS columns
 * loads ROWS + COLS vectors for ROWS * COLS multiplications. Two rows and up to ten columns read X from far
 * away once, in fewer streams than four rows and five columns, which load less. Every sum has one order, whatever the tile:
 * the choice of tiles changes no result. */
#define LANES ((long)(VECTOR_BYTES / sizeof(REAL)))
typedef REAL NAME(vec) __attribute__((vector_size(VECTOR_BYTES), aligned(sizeof(REAL)), may_alias));
#define AT(p) (*(const NAME(vec) *)(p))
#define ALL(real) ((real) - (NAME(vec)){0}) /* 0 + real would be an addition: it changes -0 */

/* The first `count` elements, then zeros. */
static inline NAME(vec) NAME(partial)(const REAL *p, long count) {
#ifdef __AVX512F__
    return (NAME(vec))MASKED(count, p);
#else
    REAL all[LANES] = {0};
    for (long i = 0; i < count; i++) all[i] = p[i];
    return AT(all);
#endif
}

static inline REAL NAME(total)(NAME(vec) v) {
#ifdef __AVX512F__
    return REDUCED(v);
#else
    REAL all[LANES];
    memcpy(all, &v, sizeof v);
    for (long step = LANES / 2; step > 0; step /= 2)
        for (long i = 0; i < step; i++) all[i] += all[i + step];
    return all[0];
#endif
}

/* z[c][r] = x_r . v_c; rows of z lie R apart. */
static inline __attribute__((always_inline)) void NAME(dots)(const REAL *x, long d, const REAL *vt, REAL *z,
                                                             long R, const int rows, const int cols) {
    NAME(vec) sum[8][WIDE_TILE], row[8];
#pragma GCC unroll 10
    for (int r = 0; r < rows; r++)
#pragma GCC unroll 10
        for (int c = 0; c < cols; c++) sum[r][c] = (NAME(vec)){0};
    long j = 0;
    for (; j + LANES <= d; j += LANES) {
#pragma GCC unroll 10
        for (int r = 0; r < rows; r++) {
            row[r] = AT(x + r * d + j);
            IN_REGISTER(row[r]);
            __builtin_prefetch(x + (r + AHEAD) * d + j);
        }
#pragma GCC unroll 10
        for (int c = 0; c < cols; c++) {
            const NAME(vec) u = AT(vt + c * d + j);
#pragma GCC unroll 10
            for (int r = 0; r < rows; r++) sum[r][c] += row[r] * u;
        }
    }
    if (j < d)
#pragma GCC unroll 10
        for (int c = 0; c < cols; c++) {
            const NAME(vec) u = NAME(partial)(vt + c * d + j, d - j);
#pragma GCC unroll 10
            for (int r = 0; r < rows; r++) sum[r][c] += NAME(partial)(x + r * d + j, d - j) * u;
        }
#pragma GCC unroll 10
    for (int r = 0; r < rows; r++)
#pragma GCC unroll 10
        for (int c = 0; c < cols; c++) z[c * R + r] = NAME(total)(sum[r][c]);
}

/* acc_c += sum_r s[c][r] x_r, for columns lo..hi of x and acc. */
static inline __attribute__((always_inline)) void NAME(spread)(const REAL *x, long d, long lo, long hi, const REAL *s,
                                                               long R, REAL *acc, const int rows,
                                                               const int cols) {
    NAME(vec) factor[8][MAX_TILE], row[8]; /* acc could lie anywhere: without copies, s is read again for every j */
#pragma GCC unroll 8
    for (int r = 0; r < rows; r++)
#pragma GCC unroll 8
        for (int c = 0; c < cols; c++) factor[r][c] = ALL(s[c * R + r]);
    long j = lo;
    for (; j + LANES <= hi; j += LANES) {
#pragma GCC unroll 8
        for (int r = 0; r < rows; r++) {
            row[r] = AT(x + r * d + j);
            IN_REGISTER(row[r]);
        }
#pragma GCC unroll 8
        for (int c = 0; c < cols; c++) {
            NAME(vec) sum = AT(acc + c * d + j);
#pragma GCC unroll 8
            for (int r = 0; r < rows; r++) sum += factor[r][c] * row[r];
            *(NAME(vec) *)(acc + c * d + j) = sum;
        }
    }
    for (; j < hi; j++)
#pragma GCC unroll 8
        for (int c = 0; c < cols; c++) {
            REAL sum = acc[c * d + j];
#pragma GCC unroll 8
            for (int r = 0; r < rows; r++) sum += factor[r][c][0] * x[r * d + j];
            acc[c * d + j] = sum;
        }
}

/* z (k, R) of rows 0..b of x, V as (k, d). */
static void NAME(forward)(const REAL *first, const REAL *vt, REAL *z, long b, long d, long k, long R) {
    long i = 0;
    if (k == 1)
        for (; i + 8 <= b; i += 8) NAME(dots)(first + i * d, d, vt, z + i, R, 8, 1);
    for (; i + 4 <= b; i += 4)
        for (long c = 0, cols; c < k; c += cols) {
            const REAL *x = first + i * d, *v = vt + c * d;
            REAL *to = z + c * R + i;
            cols = MIN(WIDE_TILE, k - c);
            switch (cols) {
            case 1: NAME(dots)(x, d, v, to, R, 4, 1); break;
            case 2: NAME(dots)(x, d, v, to, R, 4, 2); break;
            FORWARD_TILES(NAME(dots))
            }
        }
    for (; i < b; i++)
        for (long c = 0; c < k; c++) NAME(dots)(first + i * d, d, vt + c * d, z + c * R + i, R, 1, 1);
}

/* acc (k, d) += S^T x for rows 0..b of x, S as (k, R). A stretch of acc's columns at a time, so that it stays
 * in the innermost cache for all rows. */
static void NAME(backward)(const REAL *first, const REAL *s, REAL *acc, long b, long d, long k, long R) {
    const long stretch = MAX(LANES, STRETCH / k / LANES * LANES);
    for (long lo = 0; lo < d; lo += stretch) {
        const long hi = MIN(d, lo + stretch);
        long i = 0;
        if (k == 1)
            for (; i + 8 <= b; i += 8) NAME(spread)(first + i * d, d, lo, hi, s + i, R, acc, 8, 1);
        for (; i + 4 <= b; i += 4)
            for (long c = 0, cols; c < k; c += cols) {
                const REAL *x = first + i * d, *from = s + c * R + i;
                REAL *to = acc + c * d;
                cols = MIN(MAX_TILE, k - c);
                switch (cols) {
                case 1: NAME(spread)(x, d, lo, hi, from, R, to, 4, 1); break;
                case 2: NAME(spread)(x, d, lo, hi, from, R, to, 4, 2); break;
                BACKWARD_TILES(NAME(spread))
                }
            }
        for (; i < b; i++)
            for (long c = 0; c < k; c++)
                NAME(spread)(first + i * d, d, lo, hi, s + c * R + i, R, acc + c * d, 1, 1);
    }
}

/* The same for one column on a panel: PANEL rows of X, transposed, so that vectors run along rows and no
 * sum goes across one. Missing rows are zeros. Eight sums at a time: as many as the latency of
 * two multiplications takes. */
static inline void NAME(panel_forward)(const REAL *panel, const REAL *v, REAL *z, long d) {
    for (long first = 0; first < PANEL; first += 8 * LANES) {
        NAME(vec) sum[8] = {{0}, {0}, {0}, {0}, {0}, {0}, {0}, {0}};
        for (long j = 0; j < d; j++) {
            const NAME(vec) u = ALL(v[j]);
#pragma GCC unroll 8
            for (int i = 0; i < 8; i++) sum[i] += AT(panel + j * PANEL + first + i * LANES) * u;
        }
#pragma GCC unroll 8
        for (int i = 0; i < 8; i++) *(NAME(vec) *)(z + first + i * LANES) = sum[i];
    }
}

/* lanes (d, LANES) += panel s, the sum over lanes being left to the end. */
static inline void NAME(panel_backward)(const REAL *panel, const REAL *s, REAL *lanes, long d) {
    for (long first = 0; first < PANEL; first += 8 * LANES) {
        NAME(vec) factor[8];
#pragma GCC unroll 8
        for (int i = 0; i < 8; i++) factor[i] = AT(s + first + i * LANES);
        for (long j = 0; j < d; j++) {
            NAME(vec) sum = AT(lanes + j * LANES);
#pragma GCC unroll 8
            for (int i = 0; i < 8; i++) sum += factor[i] * AT(panel + j * PANEL + first + i * LANES);
            *(NAME(vec) *)(lanes + j * LANES) = sum;
        }
    }
}
#undef AT
#undef ALL
