/* The number formats of the stages: single precision, or integers with a fixed number of fraction bits. */
#ifndef SNN_NUMBERS_H
#define SNN_NUMBERS_H

#include <stdint.h>

#if SNN_INT8
typedef int8_t snn_weight;
typedef int16_t snn_band;     /* 2^-SNN_BAND_BITS */
typedef int32_t snn_sum;      /* of weights, on each output channel's own grid */
typedef int32_t snn_level;    /* synapses and membranes: 2^-SNN_LEVEL_BITS, 30 bits used */
typedef int32_t snn_factor;   /* decays from 0 to 1: 2^-30 */
typedef int32_t snn_cepstrum; /* 2^-SNN_CEPSTRUM_BITS */
typedef int32_t snn_score;    /* 2^-SNN_SCORE_BITS */
typedef int32_t snn_mean;     /* of scores */
typedef int64_t snn_total;    /* of scores */
#else
typedef float snn_weight, snn_band, snn_sum, snn_level, snn_factor, snn_cepstrum, snn_score;
#if SNN_CORE
typedef double snn_mean, snn_total; /* exact, as in the Python decoder */
#else
typedef float snn_mean, snn_total;
#endif
#endif

#if SNN_CORE
typedef float snn_sample;  /* 1 at full scale */
typedef uint32_t snn_row;  /* number of a row of weights */
typedef double snn_value;  /* of a score in an event */
#else
typedef int16_t snn_sample;
typedef uint16_t snn_row;
typedef float snn_value;
#endif

#if SNN_FIXED_FRONT_END
#define SNN_AMPLITUDE_BITS 29
typedef int32_t snn_amplitude; /* 2^-SNN_AMPLITUDE_BITS of full scale */
#else
/* Microcontrollers use single precision unless SNN_SINGLE_FRONT_END is defined as 0. */
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
/* Right shifts of negative numbers are arithmetic, as in every compiler that this is built with. */
#define SNN_LEVEL_LIMIT ((int32_t)1 << 29)

/* Levels have 30 bits: the sum of two fits an int32, and so does four times one, so that the upper word of its
 * product with a factor is the rounded product. */
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
