/* The natural logarithm in double precision, with the same bits on every processor and by every compiler, which those
 * of C libraries do not have.
 *
 * x = 2^k (1 + f) with 1 + f between sqrt(1/2) and sqrt(2); with s = f / (2 + f), log(1 + f) is the series of
 * 2 atanh(s), of which f and f^2 / 2 are taken exactly. The error is below one unit in the last place.
 */
#ifndef SNN_LOG_H
#define SNN_LOG_H

#include <stdint.h>
#include <string.h>

#if defined(__clang__)
#pragma STDC FP_CONTRACT OFF
#endif

/* Return log(x) for a positive, finite, normal x. There are no branches: loops over it become vectors. */
static inline double snn_log(double x)
{
    const double ln_2_high = 0x1.62e42fee00000p-1, ln_2_low = 0x1.a39ef35793c76p-33;
    const uint64_t sqrt_half = 0x3fe6a09e667f3bcdu, one = 0x3ff0000000000000u;
    uint64_t bits;
    memcpy(&bits, &x, sizeof bits);
    /* The exponent, rounded so that the rest lies about 1. */
    const uint64_t above = bits - sqrt_half + one;
    const uint64_t exponent = above >> 52;
    const uint64_t rest_bits = bits - (exponent << 52) + one;
    /* An integer below 2^52 in the mantissa of 2^52, less 2^52: vectors of doubles have no conversion of 64 bits. */
    const uint64_t shifted = exponent | 0x4330000000000000u;
    double rest, k;
    memcpy(&rest, &rest_bits, sizeof rest);
    memcpy(&k, &shifted, sizeof k);
    k -= 0x1p52 + 1023.0;
    const double f = rest - 1.0, half = 0.5 * f * f, s = f / (2.0 + f), z = s * s, w = z * z;
    const double even = w * (2.0 / 5 + w * (2.0 / 9 + w * (2.0 / 13 + w * (2.0 / 17 + w * (2.0 / 21)))));
    const double odd = z * (2.0 / 3 + w * (2.0 / 7 + w * (2.0 / 11 + w * (2.0 / 15 + w * (2.0 / 19 + w * (2.0 / 23))))));
    return k * ln_2_high - ((half - (s * (half + (even + odd)) + k * ln_2_low)) - f);
}

#endif
