/* Incremental framing of samples; each frame becomes mel-frequency cepstral coefficients. */
#include "snn_stages.h"

#include <string.h>

#include "snn_cepstra.h"

SNN_STAGE void snn_mfcc_reset(snn_mfcc *s)
{
    s->count = 0;
    s->skip = 0;
    s->previous = 0;
    s->seen = 0;
    s->frames = 0;
#if SNN_CORE
    s->is_zero = 0;
#endif
}

/* Return whether pending holds zeros, and still does with n more samples; previous is the one before them. */
static int stays_zero(snn_mfcc *s, const snn_sample *samples, size_t n, snn_sample previous)
{
#if SNN_CORE
    uint32_t sounding = 0, bits;
    if (!s->is_zero || previous < 0 || previous > 0)
        return s->is_zero = 0;
    for (size_t i = 0; i < n; i++) {
        memcpy(&bits, samples + i, sizeof bits);
        sounding |= bits << 1; /* without the sign */
    }
    return s->is_zero = !sounding;
#else
    (void)s;
    (void)samples;
    (void)n;
    (void)previous;
    return 0;
#endif
}

static void advance(snn_mfcc *s)
{
    s->frames++;
    s->count = SNN_OVERLAP;
    s->skip = SNN_SKIP;
    if (s->count && !SNN_IS_ZERO)
        memmove(s->pending, s->pending + SNN_HOP_LENGTH, s->count * sizeof *s->pending);
}

/* Append n pre-emphasised samples; previous is the one before them. */
static void append_samples(snn_mfcc *s, const snn_sample *restrict samples, size_t n, snn_sample previous)
{
    snn_amplitude *restrict to = s->pending + s->count;
    s->count += n;
    if (!n || stays_zero(s, samples, n, previous))
        return;
    to[0] = snn_emphasised(s, samples[0], previous);
    for (size_t i = 1; i < n; i++)
        to[i] = snn_emphasised(s, samples[i], samples[i - 1]);
}

/* Process samples up to the end of the next frame; return the number of samples processed. */
SNN_STAGE size_t snn_mfcc_push(snn_mfcc *s, const snn_sample *samples, size_t n, snn_cepstrum mfcc[SNN_N_MFCC],
                               int *has_frame)
{
    size_t skipped = s->skip < n ? s->skip : n, space = SNN_FRAME_LENGTH - s->count;
    size_t taken = n - skipped < space ? n : skipped + space;
    append_samples(s, samples + skipped, taken - skipped, skipped ? samples[skipped - 1] : s->previous);
    if (taken)
        s->previous = samples[taken - 1];
    s->skip -= skipped;
    s->seen += (int64_t)taken;
    *has_frame = s->count == SNN_FRAME_LENGTH;
    if (*has_frame) {
        snn_cepstra(s, mfcc);
        advance(s);
    }
    return taken;
}

/* End the stream; return whether a padded last frame was processed into mfcc. */
SNN_STAGE int snn_mfcc_flush(snn_mfcc *s, snn_cepstrum mfcc[SNN_N_MFCC])
{
    const int64_t length = (int64_t)SNN_FRAME_LENGTH, hop = (int64_t)SNN_HOP_LENGTH;
    int64_t beyond = s->seen > length ? s->seen - length : 0;
    int64_t frames = s->seen ? 1 + (beyond + hop - 1) / hop : 0;
    int is_missing = frames > s->frames;
    if (is_missing) {
        memset(s->pending + s->count, 0, (SNN_FRAME_LENGTH - s->count) * sizeof *s->pending);
        snn_cepstra(s, mfcc);
    }
    snn_mfcc_reset(s);
    return is_missing;
}
