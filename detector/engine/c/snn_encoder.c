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

/* Coefficients that are encoded at once, in loops without branches that compilers vectorise. */
#if SNN_CORE
#define TOGETHER 16
#else
#define TOGETHER 1
#endif

/* Encode n coefficients from number k on. Baselines are stored relative to the rest. Each line rounds as in the
 * runtime: no fused operations here. */
static inline void track_some(snn_encoder *s, size_t k, const snn_cepstrum *values,
                              uint8_t spikes[SNN_PLANES][SNN_N_MFCC], size_t n)
{
    snn_cepstrum kept[TOGETHER], change[TOGETHER];
    for (size_t m = 0; m < n; m++) {
        kept[m] = snn_decayed(s->baseline[k + m], SNN_KEEP);
        change[m] = values[m] - kept[m];
    }
    for (size_t i = 0; i < SNN_THRESHOLDS; i++) {
        const snn_cepstrum *d = snn_thresholds + i * SNN_N_MFCC + k;
        uint8_t *ups = spikes[2 * i] + k, *downs = spikes[2 * i + 1] + k;
        for (size_t m = 0; m < n; m++) {
            const int up = change[m] > d[m], down = -change[m] > d[m];
            const snn_cepstrum sent = (snn_cepstrum)(up - down) * d[m];
            ups[m] = (uint8_t)up;
            downs[m] = (uint8_t)down;
            change[m] = change[m] - sent;
            kept[m] = kept[m] + sent;
        }
    }
    for (size_t m = 0; m < n; m++)
        s->baseline[k + m] = kept[m];
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
    snn_cepstrum values[SNN_N_MFCC];
    size_t k = 0;
    memcpy(values, mfcc, sizeof values);
    if (SNN_HAS_REST)
        for (size_t i = 0; i < SNN_N_MFCC; i++)
            values[i] -= snn_rest[i];
    for (; SNN_SEND_ON_DELTA && k + TOGETHER <= SNN_N_MFCC; k += TOGETHER)
        track_some(s, k, values + k, spikes, TOGETHER);
    for (; k < SNN_N_MFCC; k++)
        if (SNN_SEND_ON_DELTA)
            track_some(s, k, values + k, spikes, 1);
        else
            difference_one(s, k, values[k], spikes);
}
