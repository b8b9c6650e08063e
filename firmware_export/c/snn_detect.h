/* A streaming sound detector: 16-bit samples in, onsets and offsets of labelled sounds out.
 *
 *     static snn_detector detector;
 *     snn_init(&detector, on_event, NULL);
 *     for (;;) snn_push(&detector, samples, n);       any n, SNN_SAMPLE_RATE_HZ, mono
 *
 * All state is in the struct that the caller owns: nothing is allocated, no function is recursive and there
 * are no global variables, so any number of detectors may run side by side. Arrays and sizes of the model
 * are in snn_model.h and snn_model.c. Of the C library, memcpy, memmove and memset are used, log or logf
 * with a front end in floating point, and expf with a network in floating point.
 */
#ifndef SNN_DETECT_H
#define SNN_DETECT_H

#include <stddef.h>
#include <stdint.h>

#include "snn_model.h"

#ifdef __cplusplus
extern "C" {
#endif

typedef enum { SNN_ONSET, SNN_OFFSET } snn_kind;
typedef enum { SNN_ENDED, SNN_END_OF_STREAM } snn_reason;

/* Positions are samples since snn_init or snn_reset. */
typedef struct {
    snn_kind kind;
    snn_reason reason;       /* of an offset */
    uint16_t label;          /* into snn_labels */
    uint32_t index;          /* number of this sound; an onset and its offset share it */
    int64_t onset_sample;    /* first sample of the sound */
    int64_t offset_sample;   /* one past its last sample; offsets only */
    int64_t emitted_sample;  /* last sample received when the event was detected */
    float score;             /* smoothed, in [0, 1], at that moment */
    float peak, mean;        /* of the smoothed score between onset and offset; offsets only */
} snn_event;

typedef void (*snn_on_event)(void *context, const snn_event *event);

/* The values of a frame after each stage; pointers are valid until the next frame. */
typedef struct {
    int64_t frame;
    const snn_cepstrum *mfcc;                /* SNN_N_MFCC */
    const uint8_t *encoded;                  /* SNN_PLANES x SNN_N_MFCC, 0 or 1 */
    const uint32_t *spikes[SNN_CONVS + 1];   /* of each layer, the dense layer last; see snn_fired */
    const snn_score *scores;                 /* SNN_CLASSES */
} snn_probe;

typedef void (*snn_on_frame)(void *context, const snn_probe *probe);

typedef struct {
    snn_amplitude pending[SNN_FRAME_LENGTH]; /* pre-emphasised samples of the next frame */
    size_t count;
    size_t skip; /* samples to drop first, where the hop is longer than the frame */
    int16_t previous;
    int64_t seen, frames;
    snn_amplitude work[SNN_N_FFT + 2];
} snn_mfcc;

typedef struct {
    snn_cepstrum baseline[SNN_N_MFCC];
    uint8_t has_baseline;
} snn_encoder;

typedef struct {
    snn_band bands[SNN_BAND_FRAMES * SNN_PLANES][SNN_N_MELS]; /* a ring of frames: the input of the first layer */
    uint8_t active[SNN_BAND_FRAMES * SNN_PLANES];             /* whether any band of the plane is not zero */
    uint32_t spikes[SNN_SPIKE_WORDS];                         /* rings of each layer's last frames */
    snn_level synapses[SNN_SYNAPSES];
    snn_level membranes[SNN_MEMBRANES];
    snn_level readout[SNN_CLASSES];
    snn_sum sums[SNN_MEMBRANES]; /* of weights, kept from frame to frame: only changes are added or subtracted */
    uint8_t has_sums;
    uint16_t rows[SNN_MOST_CHANGES]; /* rows of weights whose spikes changed, position by position */
    uint16_t first_new[SNN_MOST_PLACES + 1], end_gone[SNN_MOST_PLACES + 1]; /* where each position starts in rows */
    uint32_t time;
} snn_network;

typedef struct {
    int64_t first, last; /* frames of the sound or of its run above the threshold */
    int64_t free_from;
    int32_t run;
    uint32_t index;
    uint8_t is_open;
    snn_score peak;
    snn_total sum, sum_to_last;
} snn_track;

typedef struct {
    snn_score scores[SNN_MOST_SMOOTHING][SNN_CLASSES]; /* a ring */
    snn_score smoothed[SNN_CLASSES];
    snn_track tracks[SNN_CLASSES];
    int64_t frames;
    uint32_t next_index;
} snn_decoder;

typedef struct {
    snn_mfcc mfcc;
    snn_encoder encoder;
    snn_network network;
    snn_decoder decoder;
    snn_on_event on_event;
    snn_on_frame on_frame;
    void *context;
} snn_detector;

/* Start a stream; on_event may be NULL. */
void snn_init(snn_detector *detector, snn_on_event on_event, void *context);

/* Call on_frame for each frame, with the context of the events; NULL disables it. */
void snn_watch(snn_detector *detector, snn_on_frame on_frame);

/* Process n samples; on_event is called for their events before this returns. */
void snn_push(snn_detector *detector, const int16_t *samples, size_t n);

/* End the stream: process the padded last frame, report offsets of open sounds, reset. */
void snn_flush(snn_detector *detector);

/* Discard all state, open sounds included: the next sample is the first of a stream. */
void snn_reset(snn_detector *detector);

/* The single stages, as the detector calls them. */
void snn_mfcc_reset(snn_mfcc *state);
size_t snn_mfcc_push(snn_mfcc *state, const int16_t *samples, size_t n, snn_cepstrum mfcc[SNN_N_MFCC], int *has_frame);
int snn_mfcc_flush(snn_mfcc *state, snn_cepstrum mfcc[SNN_N_MFCC]);
void snn_encoder_reset(snn_encoder *state);
void snn_encode(snn_encoder *state, const snn_cepstrum mfcc[SNN_N_MFCC], uint8_t spikes[SNN_PLANES][SNN_N_MFCC]);
void snn_network_reset(snn_network *state);
void snn_step(snn_network *state, uint8_t spikes[SNN_PLANES][SNN_N_MFCC], snn_score scores[SNN_CLASSES]);
const uint32_t *snn_layer_spikes(const snn_network *state, size_t layer);
int snn_fired(const uint32_t *spikes, size_t layer, size_t channel, size_t band);
void snn_decoder_reset(snn_decoder *state);
void snn_decode(snn_decoder *state, const snn_score scores[SNN_CLASSES], snn_on_event on_event, void *context);
void snn_decoder_close(snn_decoder *state, snn_on_event on_event, void *context);

#ifdef __cplusplus
}
#endif
#endif
