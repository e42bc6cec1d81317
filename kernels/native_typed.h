/* Included twice by native.c, with REAL, NAME(f) and EPS of the type. */

/* z[r][c] = x_r . v_c for four rows and two columns. */
static void NAME(dots4x2)(const REAL *restrict x, long d, const REAL *restrict v, const REAL *restrict u,
                          REAL *restrict z, long k) {
    const REAL *x1 = x + d, *x2 = x1 + d, *x3 = x2 + d;
    REAL a0 = 0, a1 = 0, a2 = 0, a3 = 0, b0 = 0, b1 = 0, b2 = 0, b3 = 0;
#pragma omp simd reduction(+ : a0, a1, a2, a3, b0, b1, b2, b3)
    for (long j = 0; j < d; j++) {
        a0 += x[j] * v[j], a1 += x1[j] * v[j], a2 += x2[j] * v[j], a3 += x3[j] * v[j];
        b0 += x[j] * u[j], b1 += x1[j] * u[j], b2 += x2[j] * u[j], b3 += x3[j] * u[j];
    }
    z[0] = a0, z[k] = a1, z[2 * k] = a2, z[3 * k] = a3;
    z[1] = b0, z[k + 1] = b1, z[2 * k + 1] = b2, z[3 * k + 1] = b3;
}

/* z[r] = x_r . v for eight rows: enough sums at once to hide the latency of adding. */
static void NAME(dots8)(const REAL *restrict x, long d, const REAL *restrict v, REAL *restrict z, long k) {
    const REAL *x1 = x + d, *x2 = x1 + d, *x3 = x2 + d, *x4 = x3 + d, *x5 = x4 + d, *x6 = x5 + d, *x7 = x6 + d;
    REAL a0 = 0, a1 = 0, a2 = 0, a3 = 0, a4 = 0, a5 = 0, a6 = 0, a7 = 0;
#pragma omp simd reduction(+ : a0, a1, a2, a3, a4, a5, a6, a7)
    for (long j = 0; j < d; j++) {
        const REAL s = v[j];
        a0 += x[j] * s, a1 += x1[j] * s, a2 += x2[j] * s, a3 += x3[j] * s;
        a4 += x4[j] * s, a5 += x5[j] * s, a6 += x6[j] * s, a7 += x7[j] * s;
    }
    z[0] = a0, z[k] = a1, z[2 * k] = a2, z[3 * k] = a3;
    z[4 * k] = a4, z[5 * k] = a5, z[6 * k] = a6, z[7 * k] = a7;
}

static REAL NAME(dot)(const REAL *restrict x, const REAL *restrict v, long d) {
    REAL a = 0;
#pragma omp simd reduction(+ : a)
    for (long j = 0; j < d; j++) a += x[j] * v[j];
    return a;
}

/* acc_c += sum_r s[r][c] x_r for four rows and two columns. */
static void NAME(add4x2)(const REAL *restrict x, long d, const REAL *restrict s, long k, REAL *restrict acc,
                         REAL *restrict bcc) {
    const REAL *x1 = x + d, *x2 = x1 + d, *x3 = x2 + d;
    const REAL a0 = s[0], a1 = s[k], a2 = s[2 * k], a3 = s[3 * k];
    const REAL b0 = s[1], b1 = s[k + 1], b2 = s[2 * k + 1], b3 = s[3 * k + 1];
#pragma omp simd
    for (long j = 0; j < d; j++) {
        acc[j] += a0 * x[j] + a1 * x1[j] + a2 * x2[j] + a3 * x3[j];
        bcc[j] += b0 * x[j] + b1 * x1[j] + b2 * x2[j] + b3 * x3[j];
    }
}

/* acc += sum_r s[r] x_r for eight rows. */
static void NAME(add8)(const REAL *restrict x, long d, const REAL *restrict s, long k, REAL *restrict acc) {
    const REAL *x1 = x + d, *x2 = x1 + d, *x3 = x2 + d, *x4 = x3 + d, *x5 = x4 + d, *x6 = x5 + d, *x7 = x6 + d;
    const REAL a0 = s[0], a1 = s[k], a2 = s[2 * k], a3 = s[3 * k];
    const REAL a4 = s[4 * k], a5 = s[5 * k], a6 = s[6 * k], a7 = s[7 * k];
#pragma omp simd
    for (long j = 0; j < d; j++)
        acc[j] += (a0 * x[j] + a1 * x1[j] + a2 * x2[j] + a3 * x3[j]) +
                  (a4 * x4[j] + a5 * x5[j] + a6 * x6[j] + a7 * x7[j]);
}

/* z := scale * phi_i(z), in place. data: weights (n, k) | probabilities (n, k) | blocks (n, k, k). */
static void NAME(phi)(int kind, const REAL *data, const REAL *weights, long i, long k, REAL scale,
                      REAL *restrict z) {
    if (kind == PHI_DIAGONAL) {
        const REAL *w = data + i * k;
        for (long c = 0; c < k; c++) z[c] *= scale * w[c];
    } else if (kind == PHI_SOFTMAX) {
        const REAL *p = data + i * k;
        const REAL w = weights ? scale * weights[i] : scale;
        REAL mean = 0;
        for (long c = 0; c < k; c++) mean += p[c] * z[c];
        for (long c = 0; c < k; c++) z[c] = w * p[c] * (z[c] - mean);
    } else {
        const REAL *a = data + i * k * k;
        REAL y[MAX_COLUMNS];
        for (long c = 0; c < k; c++) {
            y[c] = 0;
            for (long e = 0; e < k; e++) y[c] += a[c * k + e] * z[e];
        }
        for (long c = 0; c < k; c++) z[c] = scale * y[c];
    }
}

/* acc (k, d) = sum over rows lo..hi of x_i^T phi_i(x_i V), V given as vt (k, d). */
static void NAME(rows)(const REAL *x, const REAL *vt, int kind, const REAL *data, const REAL *weights,
                       REAL *acc, long lo, long hi, long d, long k, REAL scale) {
    REAL z[8 * MAX_COLUMNS];
    memset(acc, 0, sizeof(REAL) * (size_t)(k * d));
    long i = lo;
    for (; i + 8 <= hi; i += 8) {
        const REAL *xi = x + i * d;
        long c = 0;
        for (; c + 2 <= k; c += 2) {
            NAME(dots4x2)(xi, d, vt + c * d, vt + (c + 1) * d, z + c, k);
            NAME(dots4x2)(xi + 4 * d, d, vt + c * d, vt + (c + 1) * d, z + 4 * k + c, k);
        }
        if (c < k) NAME(dots8)(xi, d, vt + c * d, z + c, k);
        if (kind == PHI_DIAGONAL)
            for (long e = 0; e < 8 * k; e++) z[e] *= scale * data[i * k + e];
        else
            for (long r = 0; r < 8; r++) NAME(phi)(kind, data, weights, i + r, k, scale, z + r * k);
        for (c = 0; c + 2 <= k; c += 2) {
            NAME(add4x2)(xi, d, z + c, k, acc + c * d, acc + (c + 1) * d);
            NAME(add4x2)(xi + 4 * d, d, z + 4 * k + c, k, acc + c * d, acc + (c + 1) * d);
        }
        if (c < k) NAME(add8)(xi, d, z + c, k, acc + c * d);
    }
    for (; i < hi; i++) {
        const REAL *xi = x + i * d;
        for (long c = 0; c < k; c++) z[c] = NAME(dot)(xi, vt + c * d, d);
        NAME(phi)(kind, data, weights, i, k, scale, z);
        for (long c = 0; c < k; c++) {
            const REAL s = z[c];
            REAL *restrict a = acc + c * d;
#pragma omp simd
            for (long j = 0; j < d; j++) a[j] += s * xi[j];
        }
    }
}

struct NAME(product) {
    const REAL *x, *v, *data, *weights, *ridge;
    REAL *out, *work, *vt;
    int kind;
    REAL scale, shift;
    long n, d, k, parts;
};

static void NAME(product_part)(void *data, long t) {
    const struct NAME(product) *j = data;
    NAME(rows)(j->x, j->vt, j->kind, j->data, j->weights, j->work + t * j->d * j->k, j->n * t / j->parts,
               j->n * (t + 1) / j->parts, j->d, j->k, j->scale);
}

/* out (d, k) = scale X^T phi(X V) + shift V + ridge * V.
 * ridge: NULL or (d, k). work: (parts + 1) * d * k. 1 <= k <= MAX_COLUMNS. */
void NAME(xt_phi_x)(const REAL *x, const REAL *v, REAL *out, REAL *work, int kind, const REAL *data,
                    const REAL *weights, const REAL *ridge, double scale, double shift, long n, long d,
                    long k, long parts, int threads) {
    REAL *vt = k == 1 ? (REAL *)v : work + parts * d * k;
    if (k > 1)
        for (long j = 0; j < d; j++)
            for (long c = 0; c < k; c++) vt[c * d + j] = v[j * k + c];
    struct NAME(product) job = {.x = x, .v = v, .data = data, .weights = weights, .ridge = ridge,
                                .out = out, .work = work, .vt = vt, .kind = kind, .scale = (REAL)scale,
                                .shift = (REAL)shift, .n = n, .d = d, .k = k, .parts = parts};
    share(NAME(product_part), &job, parts, n * d * k < SMALL ? 1 : threads);
    /* one thread: a second job would cost more than this sum */
    for (long t = 1; t < parts; t++) {
        const REAL *restrict more = work + t * d * k;
#pragma omp simd
        for (long j = 0; j < d * k; j++) work[j] += more[j];
    }
    for (long c = 0; c < k; c++)
        for (long j = 0; j < d; j++) out[j * k + c] = work[c * d + j] + (REAL)shift * v[j * k + c];
    if (ridge)
        for (long j = 0; j < d * k; j++) out[j] += ridge[j] * v[j];
}

/* Operands of a job over vectors; which is which, the job says. */
struct NAME(vectors) {
    long n;
    REAL *a, *b, *c;
    const REAL *p, *q;
    REAL s[9];
    double *sums;
};

static void NAME(cg_sums)(const REAL *restrict p, const REAL *restrict q, REAL shift, long lo, long hi,
                          double *part) {
    double ps = 0, pp = 0, ss = 0;
#pragma omp simd reduction(+ : ps, pp, ss)
    for (long j = lo; j < hi; j++) {
        const double a = p[j], b = q[j] + shift * p[j];
        ps += a * b, pp += a * a, ss += b * b;
    }
    part[0] = ps, part[1] = pp, part[2] = ss;
}
PART(cg_sums, NAME(cg_sums)(j->p, j->q, j->s[0], lo, hi, j->sums + 3 * t))

static void NAME(cg_move)(REAL *restrict x, REAL *restrict r, const REAL *restrict p, const REAL *restrict q,
                          REAL shift, REAL alpha, long lo, long hi, double *part) {
    double rr = 0;
#pragma omp simd reduction(+ : rr)
    for (long j = lo; j < hi; j++) {
        const REAL s = r[j] - alpha * (q[j] + shift * p[j]);
        x[j] += alpha * p[j];
        r[j] = s;
        rr += (double)s * s;
    }
    part[0] = rr;
}
PART(cg_move, NAME(cg_move)(j->a, j->b, j->p, j->q, j->s[0], j->s[1], lo, hi, j->sums + t))

static void NAME(cg_turn)(REAL *restrict p, const REAL *restrict r, REAL beta, long lo, long hi) {
#pragma omp simd
    for (long j = lo; j < hi; j++) p[j] = r[j] + beta * p[j];
}
PART(cg_turn, NAME(cg_turn)(j->a, j->p, j->s[0], lo, hi))

/* One step of conjugate gradient on vectors of length n; cg_update.py says what state (2, 4) and
 * history (steps, 2) hold. Returns how the solve stands. Unless it is RUNNING or has just CONVERGED, x,
 * r and p are as they were. */
int NAME(cg_step)(REAL *x, REAL *r, REAL *p, const REAL *q, double damping, long n, double *state,
                  double *history, long steps, long k, int threads) {
    double sums[3 * MAX_PARTS];
    const double *now = state + 4 * (k % 2);
    double *then = state + 4 * ((k + 1) % 2);
    const REAL shift = (REAL)damping;
    memcpy(then, now, 4 * sizeof(double));
    if (now[2] != RUNNING) return (int)now[2];
    if (now[0] <= now[1]) return (int)(then[2] = CONVERGED);
    double ps = 0, pp = 0, ss = 0, rr = 0;
    RUN(cg_sums, .p = p, .q = q, .s = {shift}, .sums = sums);
    for (long t = 0; t < part_count(n); t++) ps += sums[3 * t], pp += sums[3 * t + 1], ss += sums[3 * t + 2];
    const double bound = EPS * sqrt(pp) * sqrt(ss);
    if (!isfinite(ps) || !isfinite(bound)) return (int)(then[2] = NOT_FINITE);
    if (ps <= bound) return (int)(then[2] = CURVATURE);
    const double alpha = now[0] / ps;
    RUN(cg_move, .a = x, .b = r, .p = p, .q = q, .s = {shift, (REAL)alpha}, .sums = sums);
    for (long t = 0; t < part_count(n); t++) rr += sums[t];
    const double beta = rr / now[0];
    RUN(cg_turn, .a = p, .p = r, .s = {(REAL)beta});
    const long step = MIN((long)now[3], steps - 1);
    history[2 * step] = alpha, history[2 * step + 1] = beta;
    then[0] = rr, then[3] += 1;
    if (rr <= now[1]) then[2] = CONVERGED;
    return (int)then[2];
}

/* At most `steps` iterations of cg_step with the product of xt_phi_x (its arguments come first; v is p
 * and out is q). Returns how many were begun. */
long NAME(cg_product)(const REAL *x, REAL *p, REAL *q, REAL *work, int kind, const REAL *data,
                      const REAL *weights, const REAL *ridge, double scale, double shift, long n, long d,
                      long k, long parts, REAL *u, REAL *r, double damping, double *state, double *history,
                      long history_steps, long steps, int threads) {
    for (long i = 0; i < steps; i++) {
        NAME(xt_phi_x)(x, p, q, work, kind, data, weights, ridge, scale, shift, n, d, k, parts, threads);
        if (NAME(cg_step)(u, r, p, q, damping, d * k, state, history, history_steps, i, threads) != RUNNING)
            return i + 1;
    }
    return steps;
}

static void NAME(neumann)(REAL *restrict v, REAL *restrict total, const REAL *restrict q, REAL lr, long lo,
                          long hi) {
#pragma omp simd
    for (long j = lo; j < hi; j++) {
        const REAL s = v[j] - lr * q[j];
        v[j] = s;
        total[j] += s;
    }
}
PART(neumann, NAME(neumann)(j->a, j->b, j->p, j->s[0], lo, hi))

/* v -= lr q; total += v. */
void NAME(neumann_update)(REAL *v, REAL *total, const REAL *q, double lr, long n, int threads) {
    RUN(neumann, .a = v, .b = total, .p = q, .s = {(REAL)lr});
}

static void NAME(square)(const REAL *restrict v, long lo, long hi, double *part) {
    double s = 0;
#pragma omp simd reduction(+ : s)
    for (long j = lo; j < hi; j++) s += (double)v[j] * v[j];
    *part = s;
}
PART(square, NAME(square)(j->p, lo, hi, j->sums + t))

/* |v|^2. */
double NAME(sum_squares)(const REAL *v, long n, int threads) {
    double sums[MAX_PARTS], total = 0;
    RUN(square, .p = v, .sums = sums);
    for (long t = 0; t < part_count(n); t++) total += sums[t];
    return total;
}

static void NAME(both_sides)(const REAL *restrict theta, const REAL *restrict v, REAL *restrict plus,
                             REAL *restrict minus, REAL step, long lo, long hi) {
#pragma omp simd
    for (long j = lo; j < hi; j++) {
        plus[j] = theta[j] + step * v[j];
        minus[j] = theta[j] - step * v[j];
    }
}
PART(both_sides, NAME(both_sides)(j->p, j->q, j->a, j->b, j->s[0], lo, hi))

/* plus = theta + step v; minus = theta - step v, with step = eps, or eps / |v| where relative.
 * Returns the step; zero where v is zero and the step is relative. */
double NAME(perturb)(const REAL *theta, const REAL *v, REAL *plus, REAL *minus, double eps, int relative,
                     long n, int threads) {
    double step = eps;
    if (relative) {
        const double vv = NAME(sum_squares)(v, n, threads);
        step = vv > 0 ? eps / sqrt(vv) : 0;
    }
    RUN(both_sides, .p = theta, .q = v, .a = plus, .b = minus, .s = {(REAL)step});
    return step;
}

static void NAME(sgd_plain)(REAL *restrict theta, const REAL *restrict grad, REAL lr, REAL decay, REAL clip,
                            long lo, long hi) {
#pragma omp simd
    for (long j = lo; j < hi; j++) theta[j] -= lr * (clip * grad[j] + decay * theta[j]);
}
PART(sgd_plain, NAME(sgd_plain)(j->a, j->p, j->s[0], j->s[1], j->s[2], lo, hi))

static void NAME(sgd_momentum)(REAL *restrict theta, const REAL *restrict grad, REAL *restrict m, REAL lr,
                               REAL decay, REAL clip, REAL keep, REAL take, REAL ahead, REAL stay, long lo,
                               long hi) {
#pragma omp simd
    for (long j = lo; j < hi; j++) {
        const REAL g = clip * grad[j] + decay * theta[j];
        const REAL s = keep * m[j] + take * g;
        m[j] = s;
        theta[j] -= lr * (stay * g + ahead * s);
    }
}
PART(sgd_momentum, NAME(sgd_momentum)(j->a, j->p, j->b, j->s[0], j->s[1], j->s[2], j->s[3], j->s[4], j->s[5], j->s[6], lo, hi))

/* g = clip * grad + decay * theta; m = momentum m + (1 - dampening) g, or m = g in the first step;
 * theta -= lr m, or lr (g + momentum m) with nesterov. mode: 0 plain (m is NULL), 1 momentum,
 * 2 nesterov; + 4 in the first step. */
void NAME(sgd_step)(REAL *theta, const REAL *grad, REAL *m, double lr, double decay, double momentum,
                    double dampening, int mode, double clip, long n, int threads) {
    const REAL keep = mode & 4 ? 0 : (REAL)momentum, take = mode & 4 ? 1 : (REAL)(1 - dampening);
    const REAL ahead = mode & 2 ? (REAL)momentum : 1, stay = mode & 2 ? 1 : 0;
    if (mode & 3)
        RUN(sgd_momentum, .a = theta, .p = grad, .b = m,
            .s = {(REAL)lr, (REAL)decay, (REAL)clip, keep, take, ahead, stay});
    else
        RUN(sgd_plain, .a = theta, .p = grad, .s = {(REAL)lr, (REAL)decay, (REAL)clip});
}

static void NAME(adam_moments)(REAL *restrict theta, const REAL *restrict grad, REAL *restrict m,
                               REAL *restrict v, REAL rate, REAL decay, REAL shrink, REAL take1, REAL beta2,
                               REAL take2, REAL fix, REAL eps, REAL clip, long lo, long hi) {
#pragma omp simd
    for (long j = lo; j < hi; j++) {
        const REAL g = clip * grad[j] + decay * theta[j];
        const REAL m1 = m[j] + take1 * (g - m[j]);
        const REAL v1 = beta2 * v[j] + take2 * g * g;
        m[j] = m1;
        v[j] = v1;
        theta[j] = shrink * theta[j] - rate * m1 / (ROOT(v1) * fix + eps);
    }
}
PART(adam_moments, NAME(adam_moments)(j->a, j->p, j->b, j->c, j->s[0], j->s[1], j->s[2], j->s[3], j->s[4], j->s[5], j->s[6], j->s[7], j->s[8], lo, hi))

/* Adam; with decoupled, AdamW's weight decay. step counts from 1. */
void NAME(adam_step)(REAL *theta, const REAL *grad, REAL *m, REAL *v, double lr, double decay, double beta1,
                     double beta2, double eps, int decoupled, double clip, double step, long n, int threads) {
    const REAL coupled = decoupled ? 0 : (REAL)decay, shrink = decoupled ? (REAL)(1 - lr * decay) : 1;
    const REAL rate = (REAL)(lr / (1 - pow(beta1, step)));
    const REAL fix = (REAL)(1 / sqrt(1 - pow(beta2, step)));
    RUN(adam_moments, .a = theta, .p = grad, .b = m, .c = v,
        .s = {rate, coupled, shrink, (REAL)(1 - beta1), (REAL)beta2, (REAL)(1 - beta2), fix, (REAL)eps,
              (REAL)clip});
}
