/* exp by a polynomial, written so that compilers turn loops over it into vector code. Included twice by
 * native.c, with REAL and NAME(f) of the type. Errors: 1.5 units in the last place. What would be below the
 * smallest normal number is 0; NaN stays NaN.
 *
 * x = n ln 2 + r, |r| <= ln 2 / 2; exp r by its Taylor polynomial; 2^n through the exponent's bits. */
#if NAME_IS_DOUBLE
static inline REAL NAME(exp_)(REAL x) {
    const REAL low = -708.0, high = 709.782712893384, shift = 0x1.8p52;
    const REAL inside = x < low ? low : (x > high ? high : x);
    const REAL t = inside * 1.4426950408889634 + shift, n = t - shift;
    const REAL r = (inside - n * 0x1.62e42fefa0000p-1) - n * 0x1.cf79abc9e3b39p-40;
    REAL p = 1.0 / 6227020800.0;
    p = p * r + 1.0 / 479001600.0, p = p * r + 1.0 / 39916800.0, p = p * r + 1.0 / 3628800.0;
    p = p * r + 1.0 / 362880.0, p = p * r + 1.0 / 40320.0, p = p * r + 1.0 / 5040.0;
    p = p * r + 1.0 / 720.0, p = p * r + 1.0 / 120.0, p = p * r + 1.0 / 24.0;
    p = p * r + 1.0 / 6.0, p = p * r + 0.5, p = p * r + 1.0, p = p * r + 1.0;
    union { REAL real; int64_t bits; } whole = {.real = t}, half, rest;
    const int64_t count = (int64_t)((uint64_t)whole.bits << 12) >> 12, first = count >> 1;
    half.bits = (int64_t)((uint64_t)(first + 1023) << 52);
    rest.bits = (int64_t)((uint64_t)(count - first + 1023) << 52);
    const REAL y = p * half.real * rest.real;
    return x > high ? (REAL)INFINITY : (x < low ? 0 : y);
}
#else
static inline REAL NAME(exp_)(REAL x) {
    const REAL low = -87.0f, high = 88.72283f, shift = 0x1.8p23f;
    const REAL inside = x < low ? low : (x > high ? high : x);
    const REAL t = inside * 1.44269504f + shift, n = t - shift;
    const REAL r = (inside - n * 0x1.62e400p-1f) - n * 0x1.7f7d1cp-20f;
    REAL p = 1.0f / 5040.0f;
    p = p * r + 1.0f / 720.0f, p = p * r + 1.0f / 120.0f, p = p * r + 1.0f / 24.0f;
    p = p * r + 1.0f / 6.0f, p = p * r + 0.5f, p = p * r + 1.0f, p = p * r + 1.0f;
    union { REAL real; int32_t bits; } whole = {.real = t}, half, rest;
    const int32_t count = (int32_t)((uint32_t)whole.bits << 9) >> 9, first = count >> 1;
    half.bits = (int32_t)((uint32_t)(first + 127) << 23);
    rest.bits = (int32_t)((uint32_t)(count - first + 127) << 23);
    const REAL y = p * half.real * rest.real;
    return x > high ? (REAL)INFINITY : (x < low ? 0 : y);
}
#endif
