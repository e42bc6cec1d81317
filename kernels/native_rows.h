/* Row programs: phi of X^T phi(X V) for one block of rows at a time, whatever the loss. Included twice by
 * native.c, with REAL and NAME(f) of the type. rows.py writes the programs and says what they mean.
 *
 * A slot is the product z, an operand from outside, or the result of an instruction: b rows of 1 or k
 * columns, columns R apart, so that every loop over rows is vector code. A column step of 0 repeats a slot
 * of one column. No slot is written twice. */
struct NAME(slot) {
    const REAL *at;
    long step; /* R, or 0 for one column */
};

/* The instructions of one entry, of operands x, y and w. A pass compiled for its program (native_pass.h) is
 * written in these names too. */
#define ADD_OF(x, y, w) ((x) + (y))
#define SUB_OF(x, y, w) ((x) - (y))
#define MUL_OF(x, y, w) ((x) * (y))
#define DIV_OF(x, y, w) ((x) / (y))
#define POW_OF(x, y, w) (POWER((x), (y)))
#define NEG_OF(x, y, w) (-(x))
#define EQ_OF(x, y, w) ((x) == (y))
#define NE_OF(x, y, w) ((x) != (y))
#define LT_OF(x, y, w) ((x) < (y))
#define LE_OF(x, y, w) ((x) <= (y))
#define GT_OF(x, y, w) ((x) > (y))
#define GE_OF(x, y, w) ((x) >= (y))
#define AND_OF(x, y, w) ((x) != 0 && (y) != 0)
#define OR_OF(x, y, w) ((x) != 0 || (y) != 0)
#define NOT_OF(x, y, w) ((x) == 0)
#define WHERE_OF(x, y, w) ((x) != 0 ? (y) : (w))
#define MAXIMUM_OF(x, y, w) (LARGER((x), (y)))
#define MINIMUM_OF(x, y, w) (SMALLER((x), (y)))
#define EXP_OF(x, y, w) (NAME(exp_)((x)))
#define LOG_OF(x, y, w) (LOG((x)))
#define LOG1P_OF(x, y, w) (LOG1P((x)))
#define EXPM1_OF(x, y, w) (EXPM1((x)))
#define SQRT_OF(x, y, w) (ROOT((x)))
#define ABS_OF(x, y, w) ((x) < 0 ? -(x) : (x))
#define SQUARE_OF(x, y, w) ((x) * (x))
#define SIGN_OF(x, y, w) ((REAL)(((x) > 0) - ((x) < 0)))
#define SIGMOID_OF(x, y, w) (1 / (1 + NAME(exp_)(-(x))))
#define TANH_OF(x, y, w) (TANH((x)))
#define RELU_OF(x, y, w) ((x) < 0 ? 0 : (x))
#define SIN_OF(x, y, w) (SIN((x)))
#define COS_OF(x, y, w) (COS((x)))
#define ERF_OF(x, y, w) (ERF((x)))
#define LARGER(x, y) ((x) > (y) || (x) != (x) ? (x) : (y))
#define SMALLER(x, y) ((x) < (y) || (x) != (x) ? (x) : (y))

#define EACH(expression)                                                              \
    for (long c = 0; c < width; c++) {                                                \
        const REAL *p0 = a.at + c * a.step, *p1 = b.at + c * b.step, *p2 = e.at + c * e.step; \
        REAL *restrict q = out + c * R;                                               \
        (void)p1, (void)p2;                                                           \
        _Pragma("omp simd") for (long r = 0; r < count; r++) {                        \
            const REAL x = p0[r], y = p1[r], w = p2[r];                               \
            (void)y, (void)w;                                                         \
            q[r] = expression;                                                        \
        }                                                                             \
    }                                                                                 \
    break

/* out[r] = the fold of a's columns. */
#define FOLD(first, with)                                                            \
    for (long r = 0; r < count; r++) out[r] = first;                                  \
    for (long c = 0; c < columns; c++) {                                              \
        const REAL *p = a.at + c * a.step;                                            \
        _Pragma("omp simd") for (long r = 0; r < count; r++) {                        \
            const REAL x = p[r], y = out[r];                                          \
            out[r] = with;                                                            \
        }                                                                             \
    }

/* One instruction on `count` rows. width: columns of the result; columns: of a. */
static void NAME(instruct)(int op, struct NAME(slot) a, struct NAME(slot) b, struct NAME(slot) e,
                           REAL *restrict out, REAL *spare, long width, long columns, long count, long R) {
    switch (op) {
    case OP_ADD: EACH(ADD_OF(x, y, w));
    case OP_SUB: EACH(SUB_OF(x, y, w));
    case OP_MUL: EACH(MUL_OF(x, y, w));
    case OP_DIV: EACH(DIV_OF(x, y, w));
    case OP_POW: EACH(POW_OF(x, y, w));
    case OP_NEG: EACH(NEG_OF(x, y, w));
    case OP_EQ: EACH(EQ_OF(x, y, w));
    case OP_NE: EACH(NE_OF(x, y, w));
    case OP_LT: EACH(LT_OF(x, y, w));
    case OP_LE: EACH(LE_OF(x, y, w));
    case OP_GT: EACH(GT_OF(x, y, w));
    case OP_GE: EACH(GE_OF(x, y, w));
    case OP_AND: EACH(AND_OF(x, y, w));
    case OP_OR: EACH(OR_OF(x, y, w));
    case OP_NOT: EACH(NOT_OF(x, y, w));
    case OP_WHERE: EACH(WHERE_OF(x, y, w));
    case OP_MAXIMUM: EACH(MAXIMUM_OF(x, y, w));
    case OP_MINIMUM: EACH(MINIMUM_OF(x, y, w));
    case OP_EXP: EACH(EXP_OF(x, y, w));
    case OP_LOG: EACH(LOG_OF(x, y, w));
    case OP_LOG1P: EACH(LOG1P_OF(x, y, w));
    case OP_EXPM1: EACH(EXPM1_OF(x, y, w));
    case OP_SQRT: EACH(SQRT_OF(x, y, w));
    case OP_ABS: EACH(ABS_OF(x, y, w));
    case OP_SQUARE: EACH(SQUARE_OF(x, y, w));
    case OP_SIGN: EACH(SIGN_OF(x, y, w));
    case OP_SIGMOID: EACH(SIGMOID_OF(x, y, w));
    case OP_TANH: EACH(TANH_OF(x, y, w));
    case OP_RELU: EACH(RELU_OF(x, y, w));
    case OP_SIN: EACH(SIN_OF(x, y, w));
    case OP_COS: EACH(COS_OF(x, y, w));
    case OP_ERF: EACH(ERF_OF(x, y, w));
    case OP_SUM: FOLD(0, y + x) break;
    case OP_AMAX: FOLD(a.at[r], LARGER(x, y)) break;
    case OP_AMIN: FOLD(a.at[r], SMALLER(x, y)) break;
    case OP_ONE_HOT:
        for (long c = 0; c < width; c++)
#pragma omp simd
            for (long r = 0; r < count; r++) out[c * R + r] = a.at[r] == (REAL)c;
        break;
    case OP_LOGSUMEXP:
    case OP_SOFTMAX: {
        struct NAME(slot) top = {spare, 0};
        NAME(instruct)(OP_AMAX, a, a, a, spare, NULL, 1, columns, count, R);
        REAL *wide = op == OP_SOFTMAX ? out : spare + 2 * R;
        for (long c = 0; c < columns; c++) {
            const REAL *p = a.at + c * a.step;
            REAL *q = wide + c * R;
#pragma omp simd
            for (long r = 0; r < count; r++) q[r] = NAME(exp_)(p[r] - top.at[r]);
        }
        NAME(instruct)(OP_SUM, (struct NAME(slot)){wide, R}, a, a, spare + R, NULL, 1, columns, count, R);
        if (op == OP_LOGSUMEXP)
            for (long r = 0; r < count; r++)
                out[r] = isinf(spare[r]) ? spare[r] : spare[r] + LOG(spare[R + r]);
        else
            for (long c = 0; c < columns; c++)
#pragma omp simd
                for (long r = 0; r < count; r++) out[c * R + r] /= spare[R + r];
        break;
    }
    }
}
#undef EACH
#undef FOLD

/* out (k, R) = A_i z_i for blocks A (rows, k, k). */
static void NAME(by_blocks)(const REAL *blocks, const REAL *z, REAL *out, long k, long count, long R) {
    for (long r = 0; r < count; r++)
        for (long c = 0; c < k; c++) {
            REAL s = 0;
            for (long j = 0; j < k; j++) s += blocks[(r * k + c) * k + j] * z[j * R + r];
            out[c * R + r] = s;
        }
}

/* An operand from outside, for the rows from `first` on. buffer: (k, R), for what does not lie as it is
 * needed. */
static struct NAME(slot) NAME(outside)(int kind, const void *data, REAL *buffer, long first, long count, long k,
                                       long R) {
    if (kind == SLOT_COLUMN) { /* one value per row */
        return (struct NAME(slot)){(const REAL *)data + first, 0};
    } else if (kind == SLOT_MATRIX) {
        if (k == 1) return (struct NAME(slot)){(const REAL *)data + first, R};
        const REAL *from = (const REAL *)data + first * k;
        for (long r = 0; r < count; r++)
            for (long c = 0; c < k; c++) buffer[c * R + r] = from[r * k + c];
    } else if (kind == SLOT_LABELS) {
        for (long r = 0; r < count; r++) buffer[r] = (REAL)((const int64_t *)data)[first + r];
        return (struct NAME(slot)){buffer, 0};
    } else if (kind == SLOT_SCALAR) {
        for (long r = 0; r < R; r++) buffer[r] = *(const REAL *)data;
        return (struct NAME(slot)){buffer, 0};
    } else if (kind == SLOT_ROW) { /* one value per column */
        for (long c = 0; c < k; c++)
            for (long r = 0; r < R; r++) buffer[c * R + r] = ((const REAL *)data)[c];
    } else { /* SLOT_BLOCKS */
        return (struct NAME(slot)){(const REAL *)data + first * k * k, 0};
    }
    return (struct NAME(slot)){buffer, R};
}
