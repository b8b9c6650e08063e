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
 * correctly rounded sums: proved algorithms using rounding to odd", IEEE Trans. Computers 57(4), 2008). */
static inline float snn_fused(float a, float b, float c)
{
    const double product = (double)a * (double)b, addend = (double)c;
    double sum = product + addend;
    const double part = sum - product;
    const double error = (product - (sum - part)) + (addend - part);
    uint64_t bits;
    memcpy(&bits, &sum, sizeof bits);
    if (!(error < 0 || error > 0) || (bits & 1u))
        return (float)sum;
    /* Away from zero if the error has the sign of the sum, else towards it. */
    bits += (error > 0) == (sum > 0) ? (uint64_t)1 : ~(uint64_t)0;
    memcpy(&sum, &bits, sizeof sum);
    return (float)sum;
}

static inline float snn_sigmoid(float level)
{
    static const float p[5] = {4.37031012579801e-11f, 1.15627324459942e-07f, 6.08574864600143e-05f,
                               8.51377133304701e-03f, 2.48287947061529e-01f};
    static const float q[6] = {6.10247389755681e-13f, 5.76102136993427e-09f, 6.29106785017040e-06f,
                               1.70198817374094e-03f, 1.16817656904453e-01f, 9.93151921023180e-01f};
    const float low = level < -18.0f ? -18.0f : level, x = low > 18.0f ? 18.0f : low, square = x * x;
    float above = p[0], below = q[0];
    for (int i = 1; i < 5; i++)
        above = snn_fused(above, square, p[i]);
    for (int i = 1; i < 6; i++)
        below = snn_fused(below, square, q[i]);
    const float score = above * x / below + 0.5f;
    return score < 0.0f ? 0.0f : score; /* for a few x below 18 it is 1 + 2^-23, which decoders take for 1 */
}

#endif
