/* The logistic function in single precision, bit for bit as onnxruntime computes it on processors with fused
 * multiply-add, and here on all others as well: a rational approximation, x P(x^2) / Q(x^2) + 1/2 with x limited to
 * +-18, whose coefficients are those of Eigen and of onnxruntime's MLAS.
 */
#ifndef SNN_SIGMOID_H
#define SNN_SIGMOID_H

#include <stdint.h>
#include <string.h>

#if defined(__clang__)
#pragma STDC FP_CONTRACT OFF
#endif

/* Return a * b + c, rounded once. The product is exact in double precision; the sum is rounded to odd there, so that
 * the rounding to single precision is that of the exact sum (S. Boldo and G. Melquiond, "Emulation of FMA and
 * correctly rounded sums: proved algorithms using rounding to odd", IEEE Trans. Computers 57(4), 2008). There are no
 * branches: loops over it become vectors. */
static inline float snn_fused(float a, float b, float c)
{
    const double product = (double)a * (double)b, addend = (double)c;
    double sum = product + addend;
    const double part = sum - product;
    const double error = (product - (sum - part)) + (addend - part);
    uint64_t bits, error_bits;
    memcpy(&bits, &sum, sizeof bits);
    memcpy(&error_bits, &error, sizeof error_bits);
    /* Where the sum is not exact and its last bit is even: away from zero if the error has its sign, else towards it. */
    const uint64_t is_inexact = (error_bits << 1) != 0, step = 1 - ((bits ^ error_bits) >> 63 << 1);
    bits += step & (0 - (is_inexact & ~bits));
    memcpy(&sum, &bits, sizeof sum);
    return (float)sum;
}

#define SNN_SIGMOIDS 8 /* that are computed at once */

/* gcc makes vectors of a loop only if it has not unrolled it first. */
#if defined(__GNUC__) && !defined(__clang__)
#define EACH_SIGMOID _Pragma("GCC unroll 1") for (int n = 0; n < SNN_SIGMOIDS; n++)
#else
#define EACH_SIGMOID for (int n = 0; n < SNN_SIGMOIDS; n++)
#endif

/* Each step is a loop of its own. */
static inline void snn_sigmoids(const float level[SNN_SIGMOIDS], float score[SNN_SIGMOIDS])
{
    static const float p[5] = {4.37031012579801e-11f, 1.15627324459942e-07f, 6.08574864600143e-05f,
                               8.51377133304701e-03f, 2.48287947061529e-01f};
    static const float q[6] = {6.10247389755681e-13f, 5.76102136993427e-09f, 6.29106785017040e-06f,
                               1.70198817374094e-03f, 1.16817656904453e-01f, 9.93151921023180e-01f};
    float x[SNN_SIGMOIDS], square[SNN_SIGMOIDS], above[SNN_SIGMOIDS], below[SNN_SIGMOIDS];
    EACH_SIGMOID {
        const float low = level[n] < -18.0f ? -18.0f : level[n];
        x[n] = low > 18.0f ? 18.0f : low;
        square[n] = x[n] * x[n];
        above[n] = p[0];
        below[n] = q[0];
    }
    for (int i = 1; i < 5; i++)
        EACH_SIGMOID
            above[n] = snn_fused(above[n], square[n], p[i]);
    for (int i = 1; i < 6; i++)
        EACH_SIGMOID
            below[n] = snn_fused(below[n], square[n], q[i]);
    EACH_SIGMOID {
        const float found = above[n] * x[n] / below[n] + 0.5f;
        score[n] = found < 0.0f ? 0.0f : found; /* for a few x below 18 it is 1 + 2^-23, which decoders take for 1 */
    }
}

#endif
