/* Spikes of the core's layers: where they change sums, and how the sums become the next ones.
 *
 * A part of snn_network.c. On processors with short vectors compilers divide those of eight.
 */
#ifndef SNN_CORE_SPIKES_H
#define SNN_CORE_SPIKES_H

#define WORD_BITS 64 /* words are read two at once: each position has an even number of them */

static inline uint64_t word_pair(const uint32_t *words)
{
    return words[0] | (uint64_t)words[1] << 32;
}

/* Keep how many neurons of a layer spike, and how many do not do what they did in the previous frame. */
static void count_spikes(snn_network *s, const snn_layer *l)
{
    const size_t slot = s->time % l->ring;
    const uint32_t *now = s->spikes + l->spikes + slot * l->words;
    const uint32_t *then = s->spikes + l->spikes + (slot ? slot - 1 : l->ring - 1) * l->words;
    unsigned spikes = 0, changes = 0;
    for (size_t i = 0; i < l->words; i += 2) {
        const uint64_t word = word_pair(now + i);
        spikes += (unsigned)__builtin_popcountll(word);
        changes += (unsigned)__builtin_popcountll(word ^ word_pair(then + i));
    }
    s->counts[l->slots + slot] = (snn_count){spikes, changes, 0};
}

/* Return whether the frames that a layer reads have fewer spikes than changes since the previous frame. */
static int is_sparse(const snn_network *s, const snn_layer *l, const snn_layer *before)
{
    uint64_t spikes = 0, changes = 0;
    for (size_t f = 0, at = oldest_slot(s, l, before->ring); f < l->frames; f++) {
        spikes += s->counts[before->slots + at].spikes;
        changes += s->counts[before->slots + at].changes;
        at = wrapped(at + l->dilation, before->ring);
    }
    return spikes <= changes;
}

/* Append the offsets of the rows of weights of up to 64 channels, of which the first one's is row. */
static inline snn_row *append_rows(snn_row *to, uint64_t spikes, size_t channels, size_t row, size_t step)
{
#if defined(__AVX512F__)
    const __m512i places = _mm512_set_epi32(15, 14, 13, 12, 11, 10, 9, 8, 7, 6, 5, 4, 3, 2, 1, 0);
    const __m512i steps = _mm512_mullo_epi32(_mm512_set1_epi32((int)step), places);
    for (size_t c = 0; c < channels; c += 16, spikes >>= 16, row += 16 * step) { /* without branches on spikes */
        const __mmask16 some = (__mmask16)spikes;
        const __m512i rows = _mm512_add_epi32(_mm512_set1_epi32((int)row), steps);
        _mm512_storeu_si512(to, _mm512_maskz_compress_epi32(some, rows));
        to += __builtin_popcount(some);
    }
#else
    (void)channels;
    for (; spikes; spikes &= spikes - 1)
        *to++ = (snn_row)(row + (size_t)__builtin_ctzll(spikes) * step);
#endif
    return to;
}

/* The lists of a frame, SNN_LISTS one after the other. */
enum { SPIKES, NEW, GONE };

static inline snn_list list_at(const snn_network *s, const snn_layer *l, size_t slot, size_t kind)
{
    const size_t lists = SNN_LISTS * slot + kind;
    return (snn_list){s->rows + l->rows + lists * l->list_rows, s->firsts + l->firsts + lists * (l->out_width + 1)};
}

/* How far apart the rows of weights of two neighbouring channels and of two neighbouring positions are. */
typedef struct {
    size_t channel, place;
} strides;

/* List the rows of weights of the spikes in a frame, position by position, so that a receptive field is a part of the
 * list: of all spikes, of those that are new since the previous frame, or of those that are gone. The rows are those of
 * the first frame of what reads these spikes. */
APART static void make_list(snn_network *s, const snn_layer *l, size_t slot, size_t kind, strides apart)
{
    const size_t words = l->words / l->out_width;
    const uint32_t *now = s->spikes + l->spikes + slot * l->words;
    const uint32_t *then = s->spikes + l->spikes + (slot ? slot - 1 : l->ring - 1) * l->words;
    const snn_list list = list_at(s, l, slot, kind);
    snn_row *to = list.rows;
    for (size_t place = 0; place < l->out_width; place++, now += words, then += words) {
        list.first[place] = (snn_row)(to - list.rows);
        for (size_t c = 0, i = 0; c < l->out_channels; c += WORD_BITS, i += 2) {
            const uint64_t have = word_pair(now + i), had = kind == SPIKES ? 0 : word_pair(then + i);
            const uint64_t spikes = kind == GONE ? had & ~have : have & ~had;
            const size_t channels = l->out_channels - c < WORD_BITS ? l->out_channels - c : WORD_BITS;
            to = append_rows(to, spikes, channels, c * apart.channel + place * apart.place, apart.channel);
        }
    }
    list.first[l->out_width] = (snn_row)(to - list.rows);
    s->counts[l->slots + slot].lists |= (uint8_t)(1u << kind);
}

static inline snn_list listed(snn_network *s, const snn_layer *l, size_t slot, size_t kind, strides apart)
{
    if (!(s->counts[l->slots + slot].lists >> kind & 1u))
        make_list(s, l, slot, kind, apart);
    return list_at(s, l, slot, kind);
}

typedef snn_row row_vector __attribute__((vector_size(VECTOR * sizeof(snn_row)), aligned(sizeof(snn_row)), may_alias));

/* Append n rows and some that do not count, each moved by so many weights, which may wrap. */
static inline snn_row *append_moved(snn_row *to, const snn_row *rows, size_t n, snn_row by)
{
    for (size_t i = 0; i < n; i += VECTOR)
        *(row_vector *)(to + i) = *(const row_vector *)(rows + i) + by;
    return to + n;
}

/* Join the parts of lists that lie in the receptive field of a position, one for each frame, to a list. */
static snn_rows rows_in_reach(snn_network *s, const snn_layer *l, const snn_list *lists, snn_reach reach)
{
    const snn_row length = (snn_row)l->out_channels;
    snn_row *to = s->reached, by = 0 - (snn_row)reach.less * length;
    for (size_t f = 0; f < l->frames; f++, by += (snn_row)l->bands * length) {
        const size_t first = lists[f].first[reach.first], end = lists[f].first[reach.end];
        to = append_moved(to, lists[f].rows + first, end - first, by);
    }
    return (snn_rows){s->reached, to};
}

/* No sum rounds: updating the previous sum gives the same bits as summing all inputs. What is less work is done. */
static void sum_spikes(snn_network *s, const snn_layer *l, const snn_layer *before)
{
    const int is_whole = SNN_DENSE || !s->has_sums || is_sparse(s, l, before);
    const strides apart = {l->frames * l->bands * l->out_channels, l->out_channels};
    snn_list *more = s->lists, *less = s->lists + l->frames;
    snn_sum *sums = s->sums + l->membranes;
    for (size_t f = 0, at = oldest_slot(s, l, before->ring); f < l->frames; f++) {
        more[f] = listed(s, before, at, is_whole ? SPIKES : NEW, apart);
        if (!is_whole)
            less[f] = listed(s, before, at, GONE, apart);
        at = wrapped(at + l->dilation, before->ring);
    }
    for (size_t o = 0; o < l->out_width; o++, sums += l->out_channels) {
        const snn_reach reach = reach_of(l, o, before->out_width);
        const snn_sum *from = is_whole ? l->bias : sums;
        add_rows(sums, from, l->weight, rows_in_reach(s, l, more, reach), l->out_channels);
        if (!is_whole)
            subtract_rows(sums, sums, l->weight, rows_in_reach(s, l, less, reach), l->out_channels);
    }
}

/* Add the weights of the read-out for the spikes of the last layer to its biases. */
static void sum_last_spikes(snn_network *s, snn_sum *sums)
{
    const snn_layer *l = &snn_layers[SNN_CONVS];
    const snn_list list = listed(s, l, s->time % l->ring, SPIKES, (strides){SNN_READOUT_ROW, 0});
    const snn_rows rows = {list.rows, list.rows + list.first[1]};
    add_rows(sums, snn_readout_bias, snn_readout_weight, rows, SNN_READOUT_ROW);
}

/* Take the classes' sums of this frame into their membranes; compute the scores, of whole vectors of classes. */
static void score_classes(snn_network *s, const snn_sum *sums, snn_score *scores)
{
    const size_t classes = SNN_CLASSES;
    const float *beta = snn_readout_beta;
    float *levels = s->readout;
    for (size_t at = 0; at < classes; at += SNN_SIGMOIDS) {
        float some[SNN_SIGMOIDS];
        for (size_t c = at; c < at + SNN_SIGMOIDS; c++) {
            const float kept = beta[c] * levels[c];
            levels[c] = kept + sums[c];
        }
        snn_sigmoids(levels + at, some);
        memcpy(scores + at, some, (classes - at < SNN_SIGMOIDS ? classes - at : SNN_SIGMOIDS) * sizeof *some);
    }
}

/* Neurons that are updated at once: one vector of the longest kind, or eight, which compilers divide. */
#if defined(__AVX512F__)
#define AT_ONCE 16
typedef uint16_t fired_bits;
#else
#define AT_ONCE 8
typedef uint8_t fired_bits;
#endif

typedef float group __attribute__((vector_size(4 * AT_ONCE)));
typedef int32_t group_masks __attribute__((vector_size(4 * AT_ONCE)));

/* Vectors are neither parameters nor results: whether these are in registers depends on the instructions. */
#define LOAD(values, from) memcpy(&(values), from, sizeof(values))
#define STORE(to, values) memcpy(to, &(values), sizeof(values))

/* Take 1 from the membranes above it, which fire; return these as bits. */
static inline fired_bits reset_fired(group *u)
{
#if defined(__AVX512F__)
    const __m512 one = _mm512_set1_ps(1.0f);
    const __mmask16 fired = _mm512_cmp_ps_mask((__m512)*u, one, _CMP_GT_OQ);
    *u = (group)_mm512_mask_sub_ps((__m512)*u, fired, (__m512)*u, one);
    return fired;
#else
    const group_masks fired = *u > 1.0f; /* all ones or all zeros */
    *u += __builtin_convertvector(fired, group);
#if defined(__AVX2__)
    return (fired_bits)_mm256_movemask_ps((__m256)fired);
#elif defined(__SSE2__)
    __m128 half[2];
    memcpy(half, &fired, sizeof half);
    return (fired_bits)(_mm_movemask_ps(half[0]) | _mm_movemask_ps(half[1]) << 4);
#else
    const group_masks place = {1, 2, 4, 8, 16, 32, 64, 128}, bits = fired & place;
    return (fired_bits)((bits[0] | bits[1] | bits[2] | bits[3]) | (bits[4] | bits[5] | bits[6] | bits[7]));
#endif
#endif
}

/* Update neurons with these currents; return their spikes. */
static inline fired_bits fire_group(float *membranes, const float *beta, const group *current)
{
    group u, decay;
    LOAD(u, membranes);
    LOAD(decay, beta);
    u = decay * u + *current;
    const fired_bits fired = reset_fired(&u);
    STORE(membranes, u);
    return fired;
}

/* Replace the current by that of the synapses. */
static inline void pass_synapses(float *synapses, const float *alpha, const float *offset, group *current)
{
    group synapse, decay, added;
    LOAD(synapse, synapses);
    LOAD(decay, alpha);
    LOAD(added, offset);
    synapse = decay * synapse + *current;
    STORE(synapses, synapse);
    *current = synapse + added;
}

/* Keep the spikes of neighbouring channels in words that are zero before. */
static inline void put_spikes(uint32_t *words, size_t c, fired_bits fired)
{
#if defined(__BYTE_ORDER__) && __BYTE_ORDER__ == __ORDER_LITTLE_ENDIAN__
    memcpy((unsigned char *)words + c / 8, &fired, sizeof fired);
#else
    words[c / 32] |= (uint32_t)fired << c % 32;
#endif
}

/* Update all neurons of a layer; the channels of a position are whole groups. */
APART static void fire(snn_network *s, const snn_layer *l)
{
    const float *sums = s->sums + l->membranes, *alpha = l->alpha, *offset = l->offset, *beta = l->beta;
    float *membranes = s->membranes + l->membranes, *synapses = s->synapses + l->synapses;
    const size_t n = l->out_channels, words_each = l->words / l->out_width;
    uint32_t *words = s->spikes + l->spikes + s->time % l->ring * l->words;
    group current;
    memset(words, 0, l->words * sizeof *words);
    for (const uint32_t *end = words + l->words; words < end; words += words_each, sums += n, membranes += n) {
        for (size_t c = 0; c < n && !alpha; c += AT_ONCE) {
            LOAD(current, sums + c);
            put_spikes(words, c, fire_group(membranes + c, beta + c, &current));
        }
        for (size_t c = 0; c < n && alpha; c += AT_ONCE, synapses += AT_ONCE) {
            LOAD(current, sums + c);
            pass_synapses(synapses, alpha + c, offset + c, &current);
            put_spikes(words, c, fire_group(membranes + c, beta + c, &current));
        }
    }
    count_spikes(s, l);
}

#endif
