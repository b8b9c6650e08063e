/* The numbers that the rooms reckon with: single precision, or integers with a fixed point. */
#ifndef SNN_NUMBERS_H
#define SNN_NUMBERS_H

#include <stdint.h>

/* A constant too large or too small by no more than the last bit stands for the same number in both forms. */
#if SNN_INT8
typedef int8_t snn_weight;
typedef int16_t snn_band;     /* 2^-SNN_BAND_BITS */
typedef int32_t snn_sum;      /* of weights: on each map's own grid */
typedef int32_t snn_level;    /* of synapses and membranes: 2^-SNN_LEVEL_BITS, 30 bits of it */
typedef int32_t snn_factor;   /* 2^-30, from 0 to 1 */
typedef int32_t snn_cepstrum; /* 2^-SNN_CEPSTRUM_BITS */
typedef int32_t snn_score;    /* 2^-SNN_SCORE_BITS */
typedef int64_t snn_total;    /* of scores */
#else
typedef float snn_weight, snn_band, snn_sum, snn_level, snn_factor, snn_cepstrum, snn_score, snn_total;
#endif

#if SNN_FIXED_FRONT_END
#define SNN_AMPLITUDE_BITS 29
typedef int32_t snn_amplitude; /* 2^-SNN_AMPLITUDE_BITS of full scale */
#else
/* Microcontrollers reckon in single precision, unless they are told otherwise. */
#ifndef SNN_SINGLE_FRONT_END
#if defined(__ARM_ARCH_PROFILE) && __ARM_ARCH_PROFILE == 'M'
#define SNN_SINGLE_FRONT_END 1
#else
#define SNN_SINGLE_FRONT_END 0
#endif
#endif
#if SNN_SINGLE_FRONT_END
typedef float snn_real;
#else
typedef double snn_real;
#endif
typedef snn_real snn_amplitude; /* 1 at full scale */
#define SNN_REAL(value) ((snn_real)(value))
#endif

#if SNN_INT8
/* Shifts of negative numbers are those of two's complement, as in every compiler that this is built with. */
#define SNN_LEVEL_LIMIT ((int32_t)1 << 29)

/* Levels have 30 bits: the sum of two is a word still, and four times one, of which the upper word of a product
 * is the product that is wanted, rounded. */
static inline int32_t snn_limited(int32_t sum_of_levels)
{
    int32_t low = sum_of_levels > -SNN_LEVEL_LIMIT ? sum_of_levels : -SNN_LEVEL_LIMIT;
    return low < SNN_LEVEL_LIMIT - 1 ? low : SNN_LEVEL_LIMIT - 1;
}

static inline int32_t snn_decayed(int32_t level, int32_t factor)
{
    return (int32_t)(((int64_t)(level * 4) * factor + ((int64_t)1 << 31)) >> 32);
}
#else
static inline float snn_decayed(float level, float factor)
{
    return factor * level;
}
#endif

#endif
