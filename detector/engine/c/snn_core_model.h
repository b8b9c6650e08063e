/* A model whose sizes are known at run time, under the names that snn_model.h gives to constants and globals.
 *
 * Numbers of channels are rounded up to whole vectors: what is added has no weights, no bias and no decay, and so
 * never spikes.
 */
#ifndef SNN_CORE_MODEL_H
#define SNN_CORE_MODEL_H

#include <stddef.h>
#include <stdint.h>

#define SNN_INT8 0
#define SNN_FIXED_FRONT_END 0
#define SNN_SINGLE_FRONT_END 0
#include "snn_numbers.h"

#define SNN_MOST_LANES 16   /* numbers of channels are multiples of it, or of a part of it where vectors are shorter */
#define SNN_LISTS 3         /* of a frame: all spikes, new ones, gone ones */
#define SNN_ROWS_AT_ONCE 16 /* that are written to a list, of which not all belong to it */

typedef struct {
    const snn_weight *weight; /* [in_channels][frames][bands][out_channels] */
    const snn_level *bias, *alpha, *offset; /* may be NULL */
    const snn_factor *beta;
    size_t channels; /* as the model has them */
    size_t in_channels, out_channels, out_width, neurons;
    size_t frames, dilation, bands, stride, padding;
    size_t ring, words, spikes, slots, rows, list_rows, firsts, synapses, membranes;
} snn_layer;

/* Of a layer's spikes in a frame; changes are those since the previous one. */
typedef struct {
    uint32_t spikes, changes;
    uint8_t lists; /* that have been made of them: a bit for each kind */
} snn_count;

/* Offsets of rows of weights, and where each position starts in them. */
typedef struct {
    snn_row *rows, *first;
} snn_list;

typedef struct {
    snn_score on_threshold, off_threshold;
    int32_t smoothing, min_on, min_off, refractory;
    int32_t leak, weight, bias; /* of evidence; weight is 0 where there is an average */
} snn_class;

#define SNN_EVIDENCE 1

typedef struct {
    size_t frame_length, hop_length, n_fft, n_mels, n_mfcc, work;
    size_t thresholds, convs, classes, readout_row, lanes;
    size_t band_frames, spike_words, spike_slots, n_synapses, n_membranes, n_rows, n_firsts, most_frames, most_reached;
    uint32_t time_period;
    uint8_t has_log_floor, append_energy, send_on_delta, has_rest;
    double preemphasis, log_floor, largest_sample;
    float keep;
    const double *window, *pass_twiddles, *split_twiddles, *dct, *mel_weights;
    const uint32_t *bit_reversal, *mel_first, *mel_count;
    const float *threshold, *rest, *to_bands, *readout_weight, *readout_bias, *readout_beta;
    float *silence; /* the cepstra of a frame of zeros */
    const snn_layer *layers;
} snn_model;

#define SNN_FRAME_LENGTH (s->model->frame_length)
#define SNN_HOP_LENGTH (s->model->hop_length)
#define SNN_IS_ZERO (s->is_zero)
#define SNN_OVERLAP (SNN_HOP_LENGTH < SNN_FRAME_LENGTH ? SNN_FRAME_LENGTH - SNN_HOP_LENGTH : 0)
#define SNN_SKIP (SNN_HOP_LENGTH < SNN_FRAME_LENGTH ? 0 : SNN_HOP_LENGTH - SNN_FRAME_LENGTH)
#define SNN_N_FFT (s->model->n_fft)
#define SNN_N_MELS (s->model->n_mels)
#define SNN_N_MFCC (s->model->n_mfcc)
#define SNN_WORK (s->model->work)
#define SNN_LOG_MEL (SNN_N_FFT / 2 + 1)
#define SNN_HAS_LOG_FLOOR (s->model->has_log_floor)
#define SNN_APPEND_ENERGY (s->model->append_energy)
#define SNN_SEND_ON_DELTA (s->model->send_on_delta)
#define SNN_THRESHOLDS (s->model->thresholds)
#define SNN_PLANES (2 * s->model->thresholds)
#define SNN_HAS_REST (s->model->has_rest)
#define SNN_CONVS (s->model->convs)
#define SNN_HIDDEN (snn_layers[SNN_CONVS].out_channels)
#define SNN_CLASSES (s->model->classes)
#define SNN_READOUT_ROW (s->model->readout_row)
#define SNN_BAND_FRAMES (s->model->band_frames)
#define SNN_SPIKE_WORDS (s->model->spike_words)
#define SNN_SYNAPSES (s->model->n_synapses)
#define SNN_MEMBRANES (s->model->n_membranes)
#define SNN_TIME_PERIOD (s->model->time_period)
#define SNN_MOST_SMOOTHING (s->most_smoothing)
#define SNN_PREEMPHASIS (s->model->preemphasis)
#define SNN_LOG_FLOOR (s->model->log_floor)
#define SNN_KEEP (s->model->keep)

#define snn_window (s->model->window)
#define snn_bit_reversal (s->model->bit_reversal)
#define snn_pass_twiddles (s->model->pass_twiddles)
#define snn_split_twiddles (s->model->split_twiddles)
#define snn_dct (s->model->dct)
#define snn_mel_weights (s->model->mel_weights)
#define snn_mel_first (s->model->mel_first)
#define snn_mel_count (s->model->mel_count)
#define snn_thresholds (s->model->threshold)
#define snn_rest (s->model->rest)
#define snn_to_bands (s->model->to_bands)
#define snn_layers (s->model->layers)
#define snn_readout_weight (s->model->readout_weight)
#define snn_readout_bias (s->model->readout_bias)
#define snn_readout_beta (s->model->readout_beta)
#define snn_classes (s->classes)

#endif
