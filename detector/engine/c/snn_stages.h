/* The state of the stages and their functions, for two ways to know a model.
 *
 * In exported firmware, snn_model.h has the sizes as constants and the arrays as globals. With SNN_CORE, the sizes are
 * known at run time: snn_core_model.h defines the same names by way of the model that each state points to, which is
 * why every function that uses one has a state called s.
 */
#ifndef SNN_STAGES_H
#define SNN_STAGES_H

#include <stddef.h>
#include <stdint.h>

#ifndef SNN_CORE
#define SNN_CORE 0
#endif

#if SNN_CORE
#include "snn_core_model.h"
#define SNN_ARRAY(type, name, size) type *name
#define SNN_OF_MODEL const snn_model *model;
#define SNN_STAGE static
#else
#include "snn_model.h"
#define SNN_ARRAY(type, name, size) type name[size]
#define SNN_OF_MODEL
#define SNN_STAGE
#define SNN_IS_ZERO 0
#endif

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
    snn_value score;         /* smoothed, in [0, 1], at that moment */
    snn_value peak, mean;    /* of the smoothed score between onset and offset; offsets only */
} snn_event;

typedef void (*snn_on_event)(void *context, const snn_event *event);

typedef struct {
    SNN_OF_MODEL
    SNN_ARRAY(snn_amplitude, pending, SNN_FRAME_LENGTH); /* pre-emphasised samples of the next frame */
    size_t count;
    size_t skip; /* samples to drop first, where the hop is longer than the frame */
    snn_sample previous;
#if SNN_CORE
    uint8_t is_zero; /* all of pending is, and so the frame if only zeros follow */
#endif
    int64_t seen, frames;
    SNN_ARRAY(snn_amplitude, work, SNN_WORK);
} snn_mfcc;

typedef struct {
    SNN_OF_MODEL
    SNN_ARRAY(snn_cepstrum, baseline, SNN_N_MFCC);
    uint8_t has_baseline;
} snn_encoder;

typedef struct {
    SNN_OF_MODEL
    SNN_ARRAY(snn_band, bands, SNN_BAND_FRAMES * SNN_PLANES * SNN_N_MELS); /* a ring of frames: the first input */
    SNN_ARRAY(uint8_t, active, SNN_BAND_FRAMES * SNN_PLANES);              /* whether a plane has any spike */
    SNN_ARRAY(uint32_t, spikes, SNN_SPIKE_WORDS);                          /* rings of each layer's last frames */
    SNN_ARRAY(snn_level, synapses, SNN_SYNAPSES);
    SNN_ARRAY(snn_level, membranes, SNN_MEMBRANES);
    SNN_ARRAY(snn_level, readout, SNN_CLASSES);
    SNN_ARRAY(snn_sum, sums, SNN_MEMBRANES); /* kept from frame to frame: only changes are added or subtracted */
    SNN_ARRAY(snn_row, plane, SNN_BAND_FRAMES * SNN_PLANES); /* planes with spikes, and their first rows of weights */
    SNN_ARRAY(snn_row, plane_row, SNN_BAND_FRAMES * SNN_PLANES);
#if SNN_CORE
    snn_row *rows, *firsts; /* lists of rows of weights by frame of spikes, and where each position starts in them */
    snn_count *counts;      /* of each frame of spikes that is kept */
    snn_list *lists;        /* those that a layer needs, by frame */
    snn_row *reached;       /* a list of the rows of weights of a receptive field */
#else
    SNN_ARRAY(snn_row, rows, SNN_MOST_CHANGES); /* rows of weights whose spikes changed, position by position */
    SNN_ARRAY(snn_row, first_new, SNN_MOST_PLACES + 1); /* where each position starts in rows */
    SNN_ARRAY(snn_row, end_gone, SNN_MOST_PLACES + 1);
#endif
    size_t plane_count;
    uint32_t time;
    uint8_t has_sums, had_planes;
} snn_network;

typedef struct {
    int64_t first, last; /* frames of the sound or of its run above the threshold */
    int64_t free_from;
    int32_t run;
    uint32_t index;
    uint8_t is_open;
    snn_mean peak;
    snn_total sum, sum_to_last;
} snn_track;

typedef struct {
    SNN_OF_MODEL
    SNN_ARRAY(snn_score, scores, SNN_MOST_SMOOTHING * SNN_CLASSES); /* a ring */
    SNN_ARRAY(snn_mean, smoothed, SNN_CLASSES);
#if SNN_EVIDENCE
    SNN_ARRAY(int32_t, evidence, SNN_CLASSES);
#endif
    SNN_ARRAY(snn_track, tracks, SNN_CLASSES);
    int64_t frames;
    int64_t end; /* no event lies behind it: samples of a stream that has ended, before that INT64_MAX */
    uint32_t next_index;
#if SNN_CORE
    const snn_class *classes; /* with the thresholds in force, which are the stream's own */
    size_t most_smoothing;
#endif
} snn_decoder;

#ifndef SNN_STAGES_ELSEWHERE
SNN_STAGE void snn_mfcc_reset(snn_mfcc *s);
SNN_STAGE size_t snn_mfcc_push(snn_mfcc *s, const snn_sample *samples, size_t n, snn_cepstrum mfcc[SNN_N_MFCC],
                               int *has_frame);
SNN_STAGE int snn_mfcc_flush(snn_mfcc *s, snn_cepstrum mfcc[SNN_N_MFCC]);
SNN_STAGE void snn_encoder_reset(snn_encoder *s);
SNN_STAGE void snn_encode(snn_encoder *s, const snn_cepstrum mfcc[SNN_N_MFCC], uint8_t spikes[SNN_PLANES][SNN_N_MFCC]);
SNN_STAGE void snn_network_reset(snn_network *s);
SNN_STAGE void snn_step(snn_network *s, uint8_t spikes[SNN_PLANES][SNN_N_MFCC], snn_score scores[SNN_CLASSES]);
SNN_STAGE const uint32_t *snn_layer_spikes(const snn_network *s, size_t layer);
SNN_STAGE void snn_decoder_reset(snn_decoder *s);
SNN_STAGE void snn_decode(snn_decoder *s, const snn_score scores[SNN_CLASSES], snn_on_event on_event, void *context);
SNN_STAGE void snn_decoder_close(snn_decoder *s, snn_on_event on_event, void *context);
#endif

#ifdef __cplusplus
}
#endif
#endif
