/* The pipeline: samples through features, encoder, network and decoder, in order. */
#include "snn_detect.h"

static void take_frame(snn_detector *d, const snn_cepstrum mfcc[SNN_N_MFCC])
{
    uint8_t spikes[SNN_PLANES][SNN_N_MFCC];
    snn_score scores[SNN_CLASSES];
    snn_encode(&d->encoder, mfcc, spikes);
    snn_step(&d->network, spikes, scores);
    if (d->on_frame) {
        snn_probe probe = {0};
        probe.frame = d->decoder.frames;
        probe.mfcc = mfcc;
        probe.encoded = spikes[0];
        probe.scores = scores;
        for (size_t i = 0; i <= SNN_CONVS; i++)
            probe.spikes[i] = snn_layer_spikes(&d->network, i);
        d->on_frame(d->context, &probe);
    }
    snn_decode(&d->decoder, scores, d->on_event, d->context);
}

void snn_init(snn_detector *d, snn_on_event on_event, void *context)
{
    d->on_event = on_event;
    d->on_frame = NULL;
    d->context = context;
    snn_reset(d);
}

void snn_watch(snn_detector *d, snn_on_frame on_frame)
{
    d->on_frame = on_frame;
}

void snn_push(snn_detector *d, const int16_t *samples, size_t n)
{
    snn_cepstrum mfcc[SNN_N_MFCC];
    int has_frame;
    while (n > 0) {
        size_t taken = snn_mfcc_push(&d->mfcc, samples, n, mfcc, &has_frame);
        samples += taken;
        n -= taken;
        if (has_frame)
            take_frame(d, mfcc);
    }
}

void snn_flush(snn_detector *d)
{
    snn_cepstrum mfcc[SNN_N_MFCC];
    d->decoder.end = d->mfcc.seen; /* the last frame is padded */
    if (snn_mfcc_flush(&d->mfcc, mfcc))
        take_frame(d, mfcc);
    snn_decoder_close(&d->decoder, d->on_event, d->context);
    snn_reset(d);
}

void snn_reset(snn_detector *d)
{
    snn_mfcc_reset(&d->mfcc);
    snn_encoder_reset(&d->encoder);
    snn_network_reset(&d->network);
    snn_decoder_reset(&d->decoder);
}
