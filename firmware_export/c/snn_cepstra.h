/* From one frame to cepstra: what the two front ends have in common is this. */
#ifndef SNN_CEPSTRA_H
#define SNN_CEPSTRA_H

#include "snn_detect.h"

/* A sample less its share of the one before. */
static inline snn_amplitude snn_emphasised(int16_t sample, int16_t previous)
{
#if SNN_FIXED_FRONT_END
    return sample * (1 << (SNN_AMPLITUDE_BITS - 15)) - previous * SNN_PREEMPHASIS; /* 14 bits, too */
#else
    const snn_real unit = SNN_REAL(1) / 32768;
    return sample * unit - SNN_PREEMPHASIS * (previous * unit);
#endif
}

/* Begin a transform: exchange each complex point with the one whose number has its bits in the opposite order. */
static inline void snn_reorder(snn_amplitude *x, size_t points)
{
    size_t j = 0;
    for (size_t i = 0; i < points; i++) {
        if (i < j) {
            snn_amplitude re = x[2 * i], im = x[2 * i + 1];
            x[2 * i] = x[2 * j];
            x[2 * i + 1] = x[2 * j + 1];
            x[2 * j] = re;
            x[2 * j + 1] = im;
        }
        size_t bit = points >> 1;
        while (bit && (j & bit)) {
            j ^= bit;
            bit >>= 1;
        }
        j |= bit;
    }
}

/* The cepstra of the frame that is pending; work is overwritten. */
void snn_cepstra(snn_mfcc *state, snn_cepstrum mfcc[SNN_N_MFCC]);

#endif
