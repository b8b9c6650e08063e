/* From one frame to cepstra: what the two front ends have in common is this. */
#ifndef SNN_CEPSTRA_H
#define SNN_CEPSTRA_H

#include "snn_detect.h"

/* A sample less its share of the one before. */
snn_amplitude snn_emphasised(int16_t sample, int16_t previous);

/* The cepstra of the frame that is pending; work is overwritten. */
void snn_cepstra(snn_mfcc *state, snn_cepstrum mfcc[SNN_N_MFCC]);

#endif
