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

/* out (d, k) = scale X^T phi(X V) + shift V + ridge * V.
 * ridge: NULL or (d, k). work: (parts + 1) * d * k. 1 <= k <= MAX_COLUMNS. */
void NAME(xt_phi_x)(const REAL *x, const REAL *v, REAL *out, REAL *work, int kind, const REAL *data,
                    const REAL *weights, const REAL *ridge, double scale, double shift, long n, long d,
                    long k, long parts, int threads) {
    REAL *vt = work + parts * d * k;
    if (k == 1) {
        vt = (REAL *)v;
    } else {
        for (long j = 0; j < d; j++)
            for (long c = 0; c < k; c++) vt[c * d + j] = v[j * k + c];
    }
    /* below this, waking the other threads costs more than they save */
    if (threads == 1 || n * d * k < (1L << 19)) {
        for (long t = 0; t < parts; t++)
            NAME(rows)(x, vt, kind, data, weights, work + t * d * k, n * t / parts, n * (t + 1) / parts, d,
                       k, (REAL)scale);
    } else {
#pragma omp parallel for schedule(dynamic, 1) num_threads(threads)
        for (long t = 0; t < parts; t++)
            NAME(rows)(x, vt, kind, data, weights, work + t * d * k, n * t / parts, n * (t + 1) / parts, d,
                       k, (REAL)scale);
    }
    /* one thread: a second barrier would cost more than this sum */
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

static void NAME(cg_turn)(REAL *restrict p, const REAL *restrict r, REAL beta, long lo, long hi) {
#pragma omp simd
    for (long j = lo; j < hi; j++) p[j] = r[j] + beta * p[j];
}

/* One step of conjugate gradient on vectors of length n; cg_update.py says what state (2, 4) and
 * history (steps, 2) hold. Returns how the solve stands. Unless it is RUNNING or has just CONVERGED, x,
 * r and p are as they were. */
int NAME(cg_step)(REAL *x, REAL *r, REAL *p, const REAL *q, double damping, long n, double *state,
                  double *history, long steps, long k, int threads) {
    double part[MAX_PARTS][3];
    const double *now = state + 4 * (k % 2);
    double *then = state + 4 * ((k + 1) % 2);
    const REAL shift = (REAL)damping;
    memcpy(then, now, 4 * sizeof(double));
    if (now[2] != RUNNING) return (int)now[2];
    if (now[0] <= now[1]) return (int)(then[2] = CONVERGED);
    double ps = 0, pp = 0, ss = 0, rr = 0;
    EACH_PART(NAME(cg_sums)(p, q, shift, lo, hi, part[t]));
    for (long t = 0; t < part_count(n); t++) ps += part[t][0], pp += part[t][1], ss += part[t][2];
    const double bound = EPS * sqrt(pp) * sqrt(ss);
    if (!isfinite(ps) || !isfinite(bound)) return (int)(then[2] = NOT_FINITE);
    if (ps <= bound) return (int)(then[2] = CURVATURE);
    const double alpha = now[0] / ps;
    EACH_PART(NAME(cg_move)(x, r, p, q, shift, (REAL)alpha, lo, hi, part[t]));
    for (long t = 0; t < part_count(n); t++) rr += part[t][0];
    const double beta = rr / now[0];
    EACH_PART(NAME(cg_turn)(p, r, (REAL)beta, lo, hi));
    const long step = MIN((long)now[3], steps - 1);
    history[2 * step] = alpha, history[2 * step + 1] = beta;
    then[0] = rr, then[3] += 1;
    if (rr <= now[1]) then[2] = CONVERGED;
    return (int)then[2];
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

/* v -= lr q; total += v. */
void NAME(neumann_update)(REAL *v, REAL *total, const REAL *q, double lr, long n, int threads) {
    EACH_PART(NAME(neumann)(v, total, q, (REAL)lr, lo, hi));
}

static void NAME(square)(const REAL *restrict v, long lo, long hi, double *part) {
    double s = 0;
#pragma omp simd reduction(+ : s)
    for (long j = lo; j < hi; j++) s += (double)v[j] * v[j];
    *part = s;
}

/* |v|^2. */
double NAME(sum_squares)(const REAL *v, long n, int threads) {
    double part[MAX_PARTS], total = 0;
    EACH_PART(NAME(square)(v, lo, hi, part + t));
    for (long t = 0; t < part_count(n); t++) total += part[t];
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

/* plus = theta + step v; minus = theta - step v, with step = eps, or eps / |v| where relative.
 * Returns the step; zero where v is zero and the step is relative. */
double NAME(perturb)(const REAL *theta, const REAL *v, REAL *plus, REAL *minus, double eps, int relative,
                     long n, int threads) {
    double step = eps;
    if (relative) {
        const double vv = NAME(sum_squares)(v, n, threads);
        step = vv > 0 ? eps / sqrt(vv) : 0;
    }
    EACH_PART(NAME(both_sides)(theta, v, plus, minus, (REAL)step, lo, hi));
    return step;
}

static void NAME(sgd_plain)(REAL *restrict theta, const REAL *restrict grad, REAL lr, REAL decay, REAL clip,
                            long lo, long hi) {
#pragma omp simd
    for (long j = lo; j < hi; j++) theta[j] -= lr * (clip * grad[j] + decay * theta[j]);
}

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

/* g = clip * grad + decay * theta; m = momentum m + (1 - dampening) g, or m = g in the first step;
 * theta -= lr m, or lr (g + momentum m) with nesterov. mode: 0 plain (m is NULL), 1 momentum,
 * 2 nesterov; + 4 in the first step. */
void NAME(sgd_step)(REAL *theta, const REAL *grad, REAL *m, double lr, double decay, double momentum,
                    double dampening, int mode, double clip, long n, int threads) {
    const REAL keep = mode & 4 ? 0 : (REAL)momentum, take = mode & 4 ? 1 : (REAL)(1 - dampening);
    const REAL ahead = mode & 2 ? (REAL)momentum : 1, stay = mode & 2 ? 1 : 0;
    if (mode & 3)
        EACH_PART(NAME(sgd_momentum)(theta, grad, m, (REAL)lr, (REAL)decay, (REAL)clip, keep, take, ahead,
                                     stay, lo, hi));
    else
        EACH_PART(NAME(sgd_plain)(theta, grad, (REAL)lr, (REAL)decay, (REAL)clip, lo, hi));
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

/* Adam; with decoupled, AdamW's weight decay. step counts from 1. */
void NAME(adam_step)(REAL *theta, const REAL *grad, REAL *m, REAL *v, double lr, double decay, double beta1,
                     double beta2, double eps, int decoupled, double clip, double step, long n, int threads) {
    const REAL coupled = decoupled ? 0 : (REAL)decay, shrink = decoupled ? (REAL)(1 - lr * decay) : 1;
    const REAL rate = (REAL)(lr / (1 - pow(beta1, step)));
    const REAL fix = (REAL)(1 / sqrt(1 - pow(beta2, step)));
    EACH_PART(NAME(adam_moments)(theta, grad, m, v, rate, coupled, shrink, (REAL)(1 - beta1), (REAL)beta2,
                                 (REAL)(1 - beta2), fix, (REAL)eps, (REAL)clip, lo, hi));
}
