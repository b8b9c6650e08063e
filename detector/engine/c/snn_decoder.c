/* From scores to onsets and offsets: smoothing or evidence, hysteresis, minimum durations, refractory time. */
#include "snn_stages.h"

#include <string.h>

#if SNN_EVIDENCE
#include "snn_evidence.h"
#endif

#define MIN_SCORE (1.0f / 1048576.0f) /* lower scores become zero, as in the runtime */

/* In fixed point a mean is rounded down. Thresholds are integers there, so that the rounded mean is below one
 * exactly where the unrounded mean is. */

SNN_STAGE void snn_decoder_reset(snn_decoder *s)
{
    memset(s->scores, 0, SNN_MOST_SMOOTHING * SNN_CLASSES * sizeof *s->scores);
    memset(s->smoothed, 0, SNN_CLASSES * sizeof *s->smoothed);
    memset(s->tracks, 0, SNN_CLASSES * sizeof *s->tracks);
#if SNN_EVIDENCE
    memset(s->evidence, 0, SNN_CLASSES * sizeof *s->evidence);
#endif
    s->frames = 0;
    s->end = INT64_MAX;
    s->next_index = 0;
}

static snn_score clean(snn_score score)
{
#if SNN_INT8
    return score;
#else
    if (!(score >= MIN_SCORE)) /* NaN, too */
        return 0.0f;
    return score < 1.0f ? score : 1.0f;
#endif
}

/* Return a score as events contain it, in [0, 1]. */
static snn_value value_of(snn_mean score)
{
#if SNN_INT8
    return (float)score / (float)(1 << SNN_SCORE_BITS);
#else
    return score;
#endif
}

#if SNN_EVIDENCE
/* Return the evidence of a class, as a score, after a frame with a score in [0, 1]. */
static snn_mean accumulate(snn_decoder *s, size_t c, snn_score score)
{
    const snn_class *p = &snn_classes[c];
#if SNN_INT8
    s->evidence[c] = snn_accumulated(s->evidence[c], score, p->leak, p->weight, p->bias);
    return snn_score_of_evidence(s->evidence[c]);
#else
    const int32_t steps = (int32_t)(score * (float)SNN_EVIDENCE_SCORE);
    s->evidence[c] = snn_accumulated(s->evidence[c], steps, p->leak, p->weight, p->bias);
    return (snn_mean)snn_score_of_evidence(s->evidence[c]) / (snn_mean)SNN_EVIDENCE_SCORE;
#endif
}
#endif

static void smooth(snn_decoder *s, const snn_score scores[SNN_CLASSES])
{
    size_t now = (size_t)(s->frames % (int64_t)SNN_MOST_SMOOTHING);
    for (size_t c = 0; c < SNN_CLASSES; c++) {
        size_t length = (size_t)snn_classes[c].smoothing;
        if (s->frames < (int64_t)length)
            length = (size_t)s->frames + 1;
        s->scores[now * SNN_CLASSES + c] = clean(scores[c]);
        /* Summed in full each time: a running sum would drift. */
        snn_mean sum = 0;
        for (size_t ago = 0, at = now; ago < length; ago++, at = at ? at - 1 : SNN_MOST_SMOOTHING - 1)
            sum += (snn_mean)s->scores[at * SNN_CLASSES + c];
        s->smoothed[c] = sum / (snn_mean)length;
#if SNN_EVIDENCE
        if (snn_classes[c].weight)
            s->smoothed[c] = accumulate(s, c, s->scores[now * SNN_CLASSES + c]);
#endif
    }
}

static void begin_run(snn_track *t, int64_t frame)
{
    t->first = frame;
    t->peak = 0;
    t->sum = 0;
}

static void take(snn_track *t, int64_t frame, snn_mean score)
{
    t->last = frame;
    t->peak = score > t->peak ? score : t->peak;
    t->sum += score;
    t->sum_to_last = t->sum;
}

static void close_track(snn_track *t, const snn_class *p, int64_t frame)
{
    if (t->is_open)
        t->free_from = frame + 1 + p->refractory;
    t->is_open = 0;
    t->run = 0;
}

static int has_begun(snn_track *t, const snn_class *p, int64_t frame, snn_mean score)
{
    if (t->is_open)
        return 0;
    if (score < (snn_mean)p->on_threshold || frame < t->free_from) {
        t->run = 0;
        return 0;
    }
    if (!t->run)
        begin_run(t, frame);
    t->run++;
    take(t, frame, score);
    if (t->run < p->min_on)
        return 0;
    t->is_open = 1;
    t->run = 0;
    return 1;
}

static int has_ended(snn_track *t, const snn_class *p, int64_t frame, snn_mean score)
{
    if (score >= (snn_mean)p->off_threshold) {
        t->run = 0;
        take(t, frame, score);
        return 0;
    }
    t->run++;
    t->sum += score;
    if (t->run < p->min_off)
        return 0;
    close_track(t, p, frame);
    return 1;
}

static int64_t end_of(const snn_decoder *s, int64_t frame)
{
    const int64_t end = frame * (int64_t)SNN_HOP_LENGTH + (int64_t)SNN_FRAME_LENGTH;
    return end < s->end ? end : s->end;
}

static snn_event event_of(const snn_decoder *s, size_t c, snn_kind kind, int64_t frame)
{
    const snn_track *t = &s->tracks[c];
    snn_event e = {0};
    e.kind = kind;
    e.label = (uint16_t)c;
    e.index = t->index;
    e.onset_sample = t->first * (int64_t)SNN_HOP_LENGTH;
    e.emitted_sample = end_of(s, frame) - 1;
    e.score = value_of(s->smoothed[c]);
    return e;
}

static void emit_offset(const snn_decoder *s, size_t c, int64_t frame, snn_reason reason, snn_on_event on_event,
                        void *context)
{
    const snn_track *t = &s->tracks[c];
    snn_event e = event_of(s, c, SNN_OFFSET, frame);
    e.reason = reason;
    e.offset_sample = end_of(s, t->last);
    e.peak = value_of(t->peak);
    e.mean = value_of((snn_mean)(t->sum_to_last / (snn_total)(t->last - t->first + 1)));
    if (on_event)
        on_event(context, &e);
}

/* Process the scores of a frame; offsets are reported before onsets. */
SNN_STAGE void snn_decode(snn_decoder *s, const snn_score scores[SNN_CLASSES], snn_on_event on_event, void *context)
{
    uint8_t begun[SNN_CLASSES];
    int64_t frame = s->frames;
    smooth(s, scores);
    for (size_t c = 0; c < SNN_CLASSES; c++) {
        snn_track *t = &s->tracks[c];
        const snn_class *p = &snn_classes[c];
        int was_open = t->is_open;
        begun[c] = (uint8_t)has_begun(t, p, frame, s->smoothed[c]);
        if (was_open && has_ended(t, p, frame, s->smoothed[c]))
            emit_offset(s, c, frame, SNN_ENDED, on_event, context);
    }
    for (size_t c = 0; c < SNN_CLASSES; c++)
        if (begun[c]) {
            s->tracks[c].index = s->next_index++;
            snn_event e = event_of(s, c, SNN_ONSET, frame);
            if (on_event)
                on_event(context, &e);
        }
    s->frames++;
}

/* Report an offset at the last frame for every open sound. */
SNN_STAGE void snn_decoder_close(snn_decoder *s, snn_on_event on_event, void *context)
{
    for (size_t c = 0; c < SNN_CLASSES; c++)
        if (s->tracks[c].is_open) {
            emit_offset(s, c, s->frames - 1, SNN_END_OF_STREAM, on_event, context);
            close_track(&s->tracks[c], &snn_classes[c], s->frames - 1);
        }
}
