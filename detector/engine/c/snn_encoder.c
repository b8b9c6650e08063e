/* Delta encoding: up and down spikes, per coefficient and threshold. */
#include "snn_stages.h"

#include <string.h>

#if defined(__clang__)
#pragma STDC FP_CONTRACT OFF
#endif

SNN_STAGE void snn_encoder_reset(snn_encoder *s)
{
    memset(s->baseline, 0, SNN_N_MFCC * sizeof *s->baseline);
    s->has_baseline = SNN_HAS_REST;
}

/* Baselines are stored relative to the rest. Each line rounds as in the runtime: no fused operations here. */
static void track_one(snn_encoder *s, size_t k, snn_cepstrum value, uint8_t spikes[SNN_PLANES][SNN_N_MFCC])
{
    snn_cepstrum kept = snn_decayed(s->baseline[k], SNN_KEEP);
    snn_cepstrum change = value - kept;
    for (size_t i = 0; i < SNN_THRESHOLDS; i++) {
        snn_cepstrum d = snn_thresholds[i * SNN_N_MFCC + k];
        uint8_t up = change > d, down = -change > d;
        snn_cepstrum sent = (snn_cepstrum)(up - down) * d;
        spikes[2 * i][k] = up;
        spikes[2 * i + 1][k] = down;
        change = change - sent;
        kept = kept + sent;
    }
    s->baseline[k] = kept;
}

static void difference_one(snn_encoder *s, size_t k, snn_cepstrum value, uint8_t spikes[SNN_PLANES][SNN_N_MFCC])
{
    snn_cepstrum change = value - s->baseline[k];
    for (size_t i = 0; i < SNN_THRESHOLDS; i++) {
        snn_cepstrum d = snn_thresholds[i * SNN_N_MFCC + k];
        spikes[2 * i][k] = change >= d;
        spikes[2 * i + 1][k] = change <= -d;
    }
    s->baseline[k] = value;
}

SNN_STAGE void snn_encode(snn_encoder *s, const snn_cepstrum mfcc[SNN_N_MFCC], uint8_t spikes[SNN_PLANES][SNN_N_MFCC])
{
    if (!s->has_baseline) { /* without a rest, the first frame is the first baseline */
        memcpy(s->baseline, mfcc, SNN_N_MFCC * sizeof *s->baseline);
        memset(spikes, 0, SNN_PLANES * SNN_N_MFCC);
        s->has_baseline = 1;
        return;
    }
    for (size_t k = 0; k < SNN_N_MFCC; k++) {
        snn_cepstrum value = SNN_HAS_REST ? mfcc[k] - snn_rest[k] : mfcc[k];
        if (SNN_SEND_ON_DELTA)
            track_one(s, k, value, spikes);
        else
            difference_one(s, k, value, spikes);
    }
}
