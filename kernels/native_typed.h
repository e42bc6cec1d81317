/* Vector updates. Included twice by native.c, with REAL, NAME(f) and EPS of the type. */

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

static double NAME(dot)(const REAL *p, const REAL *q, long n) {
    double s = 0;
#pragma omp simd reduction(+ : s)
    for (long i = 0; i < n; i++) s += (double)p[i] * q[i];
    return s;
}

static void NAME(apply)(struct matrix *m, const REAL *v, REAL *q) {
    if (m->pass) {
        m->pass->v = v, m->pass->out = q;
        NAME(one_pass)(m->pass);
    } else {
        m->operands[m->v_at] = (void *)v, m->operands[m->out_at] = q;
        m->function(m->operands, m->scratch, m->gemm);
    }
}

/* A whole solve (H + damping I) u = a by cg_step, from u where `warm`, else from zero. work: 3 n elements.
 * history: 2 * steps. certify: say what the true residual is, for a product where rounding may have moved it.
 * found: |a|^2, |r|^2 of the recursive residual, the stop code, steps, products, the smallest Ritz value of
 * H (NaN without a step), |a - H u|^2, |a - H u - damping u|^2, u.u, u.H u; the last four where certified. */
void NAME(cg_solve)(struct matrix *m, const REAL *a, REAL *u, REAL *work, double damping, double tol, long steps,
                    int warm, int certify, double *history, double *found) {
    const long n = m->n;
    REAL *r = work, *p = work + n, *q = work + 2 * n;
    const double aa = NAME(dot)(a, a, n), goal = tol * sqrt(aa);
    const REAL shift = (REAL)damping;
    double state[8] = {0, goal * goal, RUNNING, 0, 0, goal * goal, RUNNING, 0};
    long products = 0, k = 0;
    if (aa == 0 || !warm) memset(u, 0, sizeof(REAL) * (size_t)n);
    memcpy(r, a, sizeof(REAL) * (size_t)n);
    if (aa != 0 && warm) {
        NAME(apply)(m, u, q), products++;
        for (long i = 0; i < n; i++) r[i] = a[i] - q[i] - shift * u[i];
    }
    memcpy(p, r, sizeof(REAL) * (size_t)n);
    state[0] = NAME(dot)(r, r, n);
    state[2] = state[0] <= state[1];
    while (k < steps && state[4 * (k % 2) + 2] == RUNNING) {
        NAME(apply)(m, p, q), products++;
        NAME(cg_step)(u, r, p, q, damping, n, state, history, steps, k++, m->threads);
    }
    const double *end = state + 4 * (k % 2), rr = NAME(dot)(r, r, n);
    const long taken = MIN((long)end[3], RITZ_STEPS);
    found[0] = aa, found[1] = rr, found[3] = end[3];
    found[2] = end[2] == RUNNING && rr <= end[1] ? CONVERGED : end[2];
    found[5] = ritz(history, taken, 0) - damping;
    if (certify && aa != 0) {
        double left = 0, damped = 0, along = 0;
        const double uu = NAME(dot)(u, u, n);
        /* The recursive residual differs from the true one by rounding alone; see _without_rounding of
         * runtime/strategies/cg.py. */
        const double apart = FEW * end[3] * EPS * (taken ? ritz(history, taken, 1) : 0) * sqrt(uu);
        const int known = !warm && 10 * apart <= sqrt(rr) && isfinite(apart);
        if (!known) NAME(apply)(m, u, q), products++;
        for (long i = 0; i < n; i++) {
            const REAL t = known ? r[i] : a[i] - q[i] - shift * u[i], s = known ? r[i] + shift * u[i] : a[i] - q[i];
            left += (double)s * s, damped += (double)t * t;
            along += (double)u[i] * (known ? a[i] - s : q[i]);
        }
        found[6] = left, found[7] = damped, found[8] = uu, found[9] = along;
    }
    found[4] = (double)products;
}

static void NAME(neumann)(REAL *restrict v, REAL *restrict total, const REAL *restrict q, REAL lr, long lo,
                          long hi, double *part) {
    double vq = 0, vv = 0;
#pragma omp simd reduction(+ : vq, vv)
    for (long j = lo; j < hi; j++) {
        const REAL s = v[j] - lr * q[j];
        vq += (double)v[j] * q[j];
        vv += (double)s * s;
        v[j] = s;
        total[j] += s;
    }
    part[0] = vq, part[1] = vv;
}
PART(neumann, NAME(neumann)(j->a, j->b, j->p, j->s[0], lo, hi, j->sums + 2 * t))

/* v -= lr q; total += v. found: v.q before, v.v after. */
void NAME(neumann_update)(REAL *v, REAL *total, const REAL *q, double lr, long n, int threads, double *found) {
    double sums[2 * MAX_PARTS];
    RUN(neumann, .a = v, .b = total, .p = q, .s = {(REAL)lr}, .sums = sums);
    found[0] = found[1] = 0;
    for (long t = 0; t < part_count(n); t++) found[0] += sums[2 * t], found[1] += sums[2 * t + 1];
}

/* u = lr sum of (I - lr H)^k a for k < terms. work: 2 n elements. It stops where a term is larger than the
 * first by more than rounding, or by `growth` where curvature was negative.
 * found: |a|, the least Rayleigh quotient (infinite without a product), |last term|, products, whether it
 * stopped. */
void NAME(neumann_solve)(struct matrix *m, const REAL *a, REAL *u, REAL *work, double lr, long terms,
                         double growth, double *found) {
    const long n = m->n;
    REAL *term = work, *q = work + n;
    const REAL rate = (REAL)lr;
    double sums[2], size = sqrt(NAME(dot)(a, a, n));
    const double first = size * fabs(lr);
    found[0] = size, found[1] = INFINITY, found[3] = found[4] = 0;
    /* the series of lr a: no sum has to be scaled in the end */
    for (long i = 0; i < n; i++) u[i] = term[i] = rate * a[i];
    size = first;
    for (long k = 1; k < terms && first > 0 && !found[4]; k++) {
        NAME(apply)(m, term, q), found[3]++;
        NAME(neumann_update)(term, u, q, lr, n, m->threads, sums);
        if (size > 0) found[1] = MIN(found[1], sums[0] / (size * size)); /* a term may become 0 */
        size = sqrt(sums[1]);
        found[4] = !(size <= first * (found[1] < 0 ? growth : 1 + 1e-3));
    }
    found[2] = lr ? size / fabs(lr) : found[0];
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
