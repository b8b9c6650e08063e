/* From one frame to cepstra: the interface of the two front ends. */
#ifndef SNN_CEPSTRA_H
#define SNN_CEPSTRA_H

#include "snn_stages.h"

/* Return a pre-emphasised sample. */
static inline snn_amplitude snn_emphasised(const snn_mfcc *s, snn_sample sample, snn_sample previous)
{
    (void)s; /* only with sizes at run time */
#if SNN_CORE
    return SNN_REAL(sample) - SNN_PREEMPHASIS * SNN_REAL(previous);
#elif SNN_FIXED_FRONT_END
    return sample * (1 << (SNN_AMPLITUDE_BITS - 15)) - previous * SNN_PREEMPHASIS; /* 14 fraction bits */
#else
    const snn_real unit = SNN_REAL(1) / 32768;
    return sample * unit - SNN_PREEMPHASIS * (previous * unit);
#endif
}

/* Compute the cepstra of the pending frame; work is overwritten. */
SNN_STAGE void snn_cepstra(snn_mfcc *s, snn_cepstrum mfcc[SNN_N_MFCC]);

#endif
