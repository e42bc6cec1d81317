/* One pass over X: out = scale X^T phi(X V) + shift V + ridge * V, phi a row program. Included twice by
 * native.c, with REAL and NAME(f) of the type. */

/* FIXED_D and FIXED_PHI: the pass is compiled for a number of columns and a program, and lies in panels
 * (fixed_pass.py). FIXED_PHI(r) is phi of row r of a block: from z[r] and j->data it writes s[r] and what
 * is kept. */

/* acc (k, d) = sum over rows lo..hi of x_i^T phi_i(x_i V). With panels, lo is a multiple of PANEL. */
static void NAME(some_rows)(const struct pass *j, const REAL *vt, REAL *acc, long lo, long hi) {
#ifdef FIXED_PHI
    const long d = FIXED_D, k = 1, R = PANEL, slots = 1;
    const REAL *panels = j->panels;
#else
    const REAL *panels = j->panels;
    const long d = j->d, k = j->k, R = panels ? PANEL : j->block, slots = j->outside + j->count;
    struct NAME(slot) slot[MAX_SLOTS];
#endif
    const long sums = panels ? d * LANES : 0;
    REAL *memory = malloc(sizeof(REAL) * (size_t)((slots + 1) * k * R + (k + 2) * R + sums));
    REAL *z = memory + slots * k * R, *spare = z + k * R, *lanes = spare + (k + 2) * R;
    if (acc) memset(acc, 0, sizeof(REAL) * (size_t)(k * d));
    memset(lanes, 0, sizeof(REAL) * (size_t)sums);
    for (long first = lo; first < hi; first += R) {
        const long count = MIN(R, hi - first);
        const REAL *x = (panels ? panels : (const REAL *)j->x) + first * d;
        if (panels)
            NAME(panel_forward)(x, vt, z, d);
        else
            NAME(forward)(x, vt, z, count, d, k, R);
#ifdef FIXED_PHI
        REAL *s = memory;
#pragma omp simd
        for (long r = 0; r < count; r++) { FIXED_PHI(r) }
#else
        slot[0] = (struct NAME(slot)){z, R};
        for (long i = 1; i < j->outside; i++)
            slot[i] = NAME(outside)(j->kinds[i], j->data[i], memory + i * k * R, first, count, k, R);
        for (long i = 0; i < j->count; i++) {
            const struct instruction at = j->program[i];
            const long here = j->outside + i, width = at.wide ? k : 1, columns = slot[at.a].step ? k : 1;
            REAL *out = memory + here * k * R;
            if (at.op == OP_BLOCKS)
                NAME(by_blocks)(slot[at.b].at, slot[at.a].at, out, k, count, R);
            else
                NAME(instruct)(at.op, slot[at.a], slot[at.b], slot[at.c], out, spare, width, columns, count, R);
            slot[here] = (struct NAME(slot)){out, at.wide ? R : 0};
        }
        for (long i = 0; i < j->kept; i++) {
            const struct NAME(slot) from = slot[j->keep[i]];
            const long width = from.step ? k : 1;
            REAL *out = (REAL *)j->keep_at[i] + first * width;
            for (long r = 0; r < count; r++)
                for (long c = 0; c < width; c++) out[r * width + c] = from.at[c * R + r];
        }
        const REAL *s = acc ? slot[j->result].at : NULL;
#endif
        if (acc && panels) {
            if (count < R) { /* rows that are not there: zeros, as memory may hold NaN */
                memcpy(spare, s, sizeof(REAL) * (size_t)count);
                memset(spare + count, 0, sizeof(REAL) * (size_t)(R - count));
                s = spare;
            }
            NAME(panel_backward)(x, s, lanes, d);
        } else if (acc)
            NAME(backward)(x, s, acc, count, d, k, R);
    }
    if (acc && panels)
        for (long i = 0; i < d; i++) acc[i] = NAME(total)(*(const NAME(vec) *)(lanes + i * LANES));
    free(memory);
}

static void NAME(pass_part)(void *data, long t) {
    const struct pass *j = data;
    REAL *acc = j->out ? (REAL *)j->work + t * j->d * j->k : NULL;
    if (j->panels) {
        const long whole = (j->n + PANEL - 1) / PANEL, lo = whole * t / j->parts * PANEL;
        NAME(some_rows)(j, j->vt, acc, lo, MIN(j->n, whole * (t + 1) / j->parts * PANEL));
    } else
        NAME(some_rows)(j, j->vt, acc, j->n * t / j->parts, j->n * (t + 1) / j->parts);
}

/* Columns of X in a share of the sum over parts. */
static long NAME(sum_share)(long k) { return MAX(LANES, SUM_PART / k); }

/* out = scale * the sum of all parts, in order, for one share. */
static void NAME(pass_sum)(void *data, long t) {
    const struct pass *j = data;
    const long d = j->d, k = j->k, lo = t * NAME(sum_share)(k), hi = MIN(d, lo + NAME(sum_share)(k));
    const REAL scale = (REAL)j->scale;
    REAL *out = j->out;
    for (long c = 0; c < k; c++) {
        REAL *restrict sum = (REAL *)j->work + c * d;
        for (long p = 1; p < j->parts; p++) {
            const REAL *restrict more = (const REAL *)j->work + p * d * k + c * d;
#pragma omp simd
            for (long i = lo; i < hi; i++) sum[i] += more[i];
        }
        if (k == 1 || j->turned)
            for (long i = lo; i < hi; i++) out[c * d + i] = scale * sum[i];
        else
            for (long i = lo; i < hi; i++) out[i * k + c] = scale * sum[i];
    }
}

/* V comes as (d, k), or as (k, d) where `turned`, and the result is laid out in the same way. */
void NAME(one_pass)(struct pass *j) {
    const long d = j->d, k = j->k, size = d * k, parts = j->parts;
    const int threads = j->n * size < SMALL ? 1 : j->threads;
    const REAL *v = j->v, *ridge = j->ridge;
    REAL *work = j->work, *out = j->out;
    j->vt = v;
    if (k > 1 && !j->turned) {
        REAL *vt = work + parts * size;
        for (long i = 0; i < d; i++)
            for (long c = 0; c < k; c++) vt[c * d + i] = v[i * k + c];
        j->vt = vt;
    }
    share(NAME(pass_part), j, parts, threads);
    if (!out) return;
    /* a second job costs more than a small sum */
    const long share_size = NAME(sum_share)(k);
    share(NAME(pass_sum), j, (d + share_size - 1) / share_size, parts * size < SUM_WORTH ? 1 : threads);
    const REAL shift = (REAL)j->shift;
    if (shift != 0)
        for (long i = 0; i < size; i++) out[i] += shift * v[i];
    if (ridge)
        for (long i = 0; i < size; i++) out[i] += ridge[i * j->ridge_step] * v[i];
}

/* `steps` times v -= lr * the pass at v. before: NULL, or gets v as it is ahead of the last step. */
void NAME(descend)(struct pass *j, REAL *v, REAL *before, double lr, long steps) {
    const long size = j->d * j->k;
    const REAL rate = (REAL)lr, *out = j->out;
    for (long i = 0; i < steps; i++) {
        NAME(one_pass)(j);
        if (before && i + 1 == steps) memcpy(before, v, sizeof(REAL) * (size_t)size);
#pragma omp simd
        for (long e = 0; e < size; e++) v[e] -= rate * out[e];
    }
}
#undef LANES
