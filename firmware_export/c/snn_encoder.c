/* Delta encoding: up and down spikes, per coefficient and threshold. */
#include "snn_detect.h"

#include <string.h>

#if defined(__clang__)
#pragma STDC FP_CONTRACT OFF
#endif

void snn_encoder_reset(snn_encoder *s)
{
    memset(s->baseline, 0, sizeof s->baseline);
    s->has_baseline = SNN_HAS_REST;
}

/* Baselines are stored relative to the rest. Each line rounds as in the runtime: no fused operations here. */
static void encode_one(snn_encoder *s, size_t k, snn_cepstrum value, uint8_t spikes[SNN_PLANES][SNN_N_MFCC])
{
#if SNN_SEND_ON_DELTA
    snn_cepstrum kept = snn_decayed(s->baseline[k], SNN_KEEP);
    snn_cepstrum change = value - kept;
    for (size_t i = 0; i < SNN_THRESHOLDS; i++) {
        snn_cepstrum d = snn_thresholds[i][k];
        uint8_t up = change > d, down = -change > d;
        snn_cepstrum sent = (snn_cepstrum)(up - down) * d;
        spikes[2 * i][k] = up;
        spikes[2 * i + 1][k] = down;
        change = change - sent;
        kept = kept + sent;
    }
    s->baseline[k] = kept;
#else
    snn_cepstrum change = value - s->baseline[k];
    for (size_t i = 0; i < SNN_THRESHOLDS; i++) {
        spikes[2 * i][k] = change >= snn_thresholds[i][k];
        spikes[2 * i + 1][k] = change <= -snn_thresholds[i][k];
    }
    s->baseline[k] = value;
#endif
}

void snn_encode(snn_encoder *s, const snn_cepstrum mfcc[SNN_N_MFCC], uint8_t spikes[SNN_PLANES][SNN_N_MFCC])
{
    if (!s->has_baseline) { /* without a rest, the first frame is the first baseline */
        memcpy(s->baseline, mfcc, sizeof s->baseline);
        memset(spikes, 0, SNN_PLANES * SNN_N_MFCC);
        s->has_baseline = 1;
        return;
    }
    for (size_t k = 0; k < SNN_N_MFCC; k++) {
#if SNN_HAS_REST
        encode_one(s, k, mfcc[k] - snn_rest[k], spikes);
#else
        encode_one(s, k, mfcc[k], spikes);
#endif
    }
}
