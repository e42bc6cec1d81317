/* Included twice by native.c, with REAL, NAME(f) and EPS of the type. */

/* z[r][c] = x_r . v_c for four rows and columns c, c + 1. */
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

/* The same for one column. */
static void NAME(dots4)(const REAL *restrict x, long d, const REAL *restrict v, REAL *restrict z, long k) {
    const REAL *x1 = x + d, *x2 = x1 + d, *x3 = x2 + d;
    REAL a0 = 0, a1 = 0, a2 = 0, a3 = 0;
#pragma omp simd reduction(+ : a0, a1, a2, a3)
    for (long j = 0; j < d; j++)
        a0 += x[j] * v[j], a1 += x1[j] * v[j], a2 += x2[j] * v[j], a3 += x3[j] * v[j];
    z[0] = a0, z[k] = a1, z[2 * k] = a2, z[3 * k] = a3;
}

static REAL NAME(dot)(const REAL *restrict x, const REAL *restrict v, long d) {
    REAL a = 0;
#pragma omp simd reduction(+ : a)
    for (long j = 0; j < d; j++) a += x[j] * v[j];
    return a;
}

/* acc_c += sum_r s[r][c] x_r for four rows and columns c, c + 1. */
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

/* The same for one column. */
static void NAME(add4)(const REAL *restrict x, long d, const REAL *restrict s, long k, REAL *restrict acc) {
    const REAL *x1 = x + d, *x2 = x1 + d, *x3 = x2 + d;
    const REAL a0 = s[0], a1 = s[k], a2 = s[2 * k], a3 = s[3 * k];
#pragma omp simd
    for (long j = 0; j < d; j++) acc[j] += a0 * x[j] + a1 * x1[j] + a2 * x2[j] + a3 * x3[j];
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
    REAL z[4 * MAX_COLUMNS];
    memset(acc, 0, sizeof(REAL) * (size_t)(k * d));
    long i = lo;
    for (; i + 4 <= hi; i += 4) {
        const REAL *xi = x + i * d;
        long c = 0;
        for (; c + 2 <= k; c += 2) NAME(dots4x2)(xi, d, vt + c * d, vt + (c + 1) * d, z + c, k);
        if (c < k) NAME(dots4)(xi, d, vt + c * d, z + c, k);
        for (long r = 0; r < 4; r++) NAME(phi)(kind, data, weights, i + r, k, scale, z + r * k);
        for (c = 0; c + 2 <= k; c += 2) NAME(add4x2)(xi, d, z + c, k, acc + c * d, acc + (c + 1) * d);
        if (c < k) NAME(add4)(xi, d, z + c, k, acc + c * d);
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
#pragma omp parallel num_threads(threads) if (threads > 1)
    {
#pragma omp for schedule(dynamic, 1)
        for (long t = 0; t < parts; t++)
            NAME(rows)(x, vt, kind, data, weights, work + t * d * k, n * t / parts, n * (t + 1) / parts, d,
                       k, (REAL)scale);
#pragma omp for schedule(static)
        for (long j = 0; j < d; j++)
            for (long c = 0; c < k; c++) {
                REAL s = (REAL)shift * v[j * k + c];
                if (ridge) s += ridge[j * k + c] * v[j * k + c];
                for (long t = 0; t < parts; t++) s += work[(t * k + c) * d + j];
                out[j * k + c] = s;
            }
    }
}

/* One step of conjugate gradient on vectors of length n; cg_update.py says what state (2, 4) and
 * history (steps, 2) hold. Returns how the solve stands. Unless it is RUNNING or has just CONVERGED, x,
 * r and p are as they were. */
int NAME(cg_step)(REAL *restrict x, REAL *restrict r, REAL *restrict p, const REAL *restrict q,
                  double damping, long n, double *state, double *history, long steps, long k, int threads) {
    double part[MAX_PARTS][3];
    const double *now = state + 4 * (k % 2);
    double *then = state + 4 * ((k + 1) % 2);
    const long size = part_size(n), parts = (n + size - 1) / size;
    const REAL shift = (REAL)damping;
    memcpy(then, now, 4 * sizeof(double));
    if (now[2] != RUNNING) return (int)now[2];
    if (now[0] <= now[1]) return (int)(then[2] = CONVERGED);
#pragma omp parallel for schedule(dynamic, 1) num_threads(threads) if (parts > 1 && threads > 1)
    for (long t = 0; t < parts; t++) {
        double ps = 0, pp = 0, ss = 0;
        const long hi = MIN(n, (t + 1) * size);
#pragma omp simd reduction(+ : ps, pp, ss)
        for (long j = t * size; j < hi; j++) {
            const double a = p[j], b = q[j] + shift * p[j];
            ps += a * b, pp += a * a, ss += b * b;
        }
        part[t][0] = ps, part[t][1] = pp, part[t][2] = ss;
    }
    double ps = 0, pp = 0, ss = 0;
    for (long t = 0; t < parts; t++) ps += part[t][0], pp += part[t][1], ss += part[t][2];
    const double bound = EPS * sqrt(pp) * sqrt(ss);
    if (!isfinite(ps) || !isfinite(bound)) return (int)(then[2] = NOT_FINITE);
    if (ps <= bound) return (int)(then[2] = CURVATURE);
    const double alpha = now[0] / ps;
    const REAL a = (REAL)alpha;
#pragma omp parallel for schedule(dynamic, 1) num_threads(threads) if (parts > 1 && threads > 1)
    for (long t = 0; t < parts; t++) {
        double rr = 0;
        const long hi = MIN(n, (t + 1) * size);
#pragma omp simd reduction(+ : rr)
        for (long j = t * size; j < hi; j++) {
            const REAL s = r[j] - a * (q[j] + shift * p[j]);
            x[j] += a * p[j];
            r[j] = s;
            rr += (double)s * s;
        }
        part[t][0] = rr;
    }
    double rr = 0;
    for (long t = 0; t < parts; t++) rr += part[t][0];
    const double beta = rr / now[0];
    const REAL b = (REAL)beta;
#pragma omp parallel for schedule(dynamic, 1) num_threads(threads) if (parts > 1 && threads > 1)
    for (long t = 0; t < parts; t++) {
        const long hi = MIN(n, (t + 1) * size);
#pragma omp simd
        for (long j = t * size; j < hi; j++) p[j] = r[j] + b * p[j];
    }
    const long step = MIN((long)now[3], steps - 1);
    history[2 * step] = alpha, history[2 * step + 1] = beta;
    then[0] = rr, then[3] += 1;
    if (rr <= now[1]) then[2] = CONVERGED;
    return (int)then[2];
}

/* v -= lr q; total += v. */
void NAME(neumann_update)(REAL *restrict v, REAL *restrict total, const REAL *restrict q, double lr, long n,
                          int threads) {
    const REAL a = (REAL)lr;
#pragma omp parallel for simd num_threads(threads) if (n > PART && threads > 1)
    for (long j = 0; j < n; j++) {
        const REAL s = v[j] - a * q[j];
        v[j] = s;
        total[j] += s;
    }
}

/* plus = theta + step v; minus = theta - step v, with step = eps, or eps / |v| where relative.
 * Returns the step; zero where v is zero and the step is relative. */
double NAME(perturb)(const REAL *restrict theta, const REAL *restrict v, REAL *restrict plus,
                     REAL *restrict minus, double eps, int relative, long n, int threads) {
    double part[MAX_PARTS];
    const long size = part_size(n), parts = (n + size - 1) / size;
    double vv = 0;
    if (relative) {
#pragma omp parallel for num_threads(threads) if (parts > 1 && threads > 1)
        for (long t = 0; t < parts; t++) {
            double s = 0;
            const long hi = MIN(n, (t + 1) * size);
#pragma omp simd reduction(+ : s)
            for (long j = t * size; j < hi; j++) s += (double)v[j] * v[j];
            part[t] = s;
        }
        for (long t = 0; t < parts; t++) vv += part[t];
        eps = vv > 0 ? eps / sqrt(vv) : 0;
    }
    const REAL a = (REAL)eps;
#pragma omp parallel for simd num_threads(threads) if (n > PART && threads > 1)
    for (long j = 0; j < n; j++) {
        plus[j] = theta[j] + a * v[j];
        minus[j] = theta[j] - a * v[j];
    }
    return eps;
}

/* g = clip * grad + decay * theta; m = momentum m + (1 - dampening) g, or m = g where first;
 * theta -= lr m, or lr (g + momentum m) with nesterov. mode: 0 plain (m is NULL), 1 momentum,
 * 2 nesterov; + 4 on the first step. */
void NAME(sgd_step)(REAL *restrict theta, const REAL *restrict grad, REAL *restrict m, double lr,
                    double decay, double momentum, double dampening, int mode, double clip, long n,
                    int threads) {
    const REAL a = (REAL)lr, wd = (REAL)decay, c = (REAL)clip;
    const REAL mu = (REAL)momentum;
    const REAL keep = mode & 4 ? 0 : mu, take = mode & 4 ? 1 : (REAL)(1 - dampening);
    const int nesterov = (mode & 3) == 2;
    if (!(mode & 3)) {
#pragma omp parallel for simd num_threads(threads) if (n > PART && threads > 1)
        for (long j = 0; j < n; j++) theta[j] -= a * (c * grad[j] + wd * theta[j]);
        return;
    }
#pragma omp parallel for simd num_threads(threads) if (n > PART && threads > 1)
    for (long j = 0; j < n; j++) {
        const REAL g = c * grad[j] + wd * theta[j];
        const REAL s = keep * m[j] + take * g;
        m[j] = s;
        theta[j] -= a * (nesterov ? g + mu * s : s);
    }
}

/* Adam; fix1 = 1 / (1 - b1^t), fix2 = 1 / sqrt(1 - b2^t). decoupled: AdamW's weight decay. */
void NAME(adam_step)(REAL *restrict theta, const REAL *restrict grad, REAL *restrict m, REAL *restrict v,
                     double lr, double decay, double beta1, double beta2, double eps, int decoupled,
                     double clip, double step, long n, int threads) {
    const REAL c = (REAL)clip, wd = decoupled ? 0 : (REAL)decay, e = (REAL)eps;
    const REAL shrink = decoupled ? (REAL)(1 - lr * decay) : 1;
    const REAL t1 = (REAL)(1 - beta1), b2 = (REAL)beta2, t2 = (REAL)(1 - beta2);
    const REAL rate = (REAL)(lr / (1 - pow(beta1, step)));
    const REAL fix = (REAL)(1 / sqrt(1 - pow(beta2, step)));
#pragma omp parallel for simd num_threads(threads) if (n > PART && threads > 1)
    for (long j = 0; j < n; j++) {
        const REAL g = c * grad[j] + wd * theta[j];
        const REAL m1 = m[j] + t1 * (g - m[j]);
        const REAL v1 = b2 * v[j] + t2 * g * g;
        m[j] = m1;
        v[j] = v1;
        theta[j] = shrink * theta[j] - rate * m1 / ((REAL)sqrt(v1) * fix + e);
    }
}
