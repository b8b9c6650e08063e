/* Evidence for a sound: a leaky sum of the log-odds of its scores, in integers, so that floating point and fixed point
 * compute the same. detector/decoder.py says what it is; the numbers here are those of that file.
 */
#ifndef SNN_EVIDENCE_H
#define SNN_EVIDENCE_H

#include <stdint.h>

#define SNN_ODDS 192         /* steps of log-odds, from -6 to 6 */
#define SNN_PART_BITS 10     /* fraction bits of a step */
#define SNN_LEAK_BITS 12
#define SNN_EVIDENCE_SCORE 32768 /* of certainty */

/* The scores, in steps of 2^-15, that have those log-odds. */
static const uint16_t snn_score_of_odds[SNN_ODDS + 1] = {
    0, 86, 92, 98, 104, 111, 118, 125, 133, 142, 151, 161, 171, 182, 194, 206, 219, 233, 248, 264, 281, 299,
    318, 338, 360, 383, 407, 433, 461, 490, 521, 554, 589, 627, 666, 708, 753, 800, 851, 904, 961, 1021, 1084,
    1152, 1223, 1299, 1379, 1464, 1554, 1649, 1750, 1856, 1969, 2088, 2213, 2346, 2486, 2633, 2789, 2952, 3124,
    3306, 3496, 3696, 3906, 4126, 4357, 4599, 4851, 5115, 5391, 5678, 5978, 6289, 6613, 6949, 7297, 7658, 8031,
    8416, 8813, 9221, 9641, 10072, 10513, 10964, 11424, 11894, 12371, 12856, 13348, 13845, 14347, 14852, 15361,
    15872, 16384, 16896, 17407, 17916, 18421, 18923, 19420, 19912, 20397, 20874, 21344, 21804, 22255, 22696,
    23127, 23547, 23955, 24352, 24737, 25110, 25471, 25819, 26155, 26479, 26790, 27090, 27377, 27653, 27917,
    28169, 28411, 28642, 28862, 29072, 29272, 29462, 29644, 29816, 29979, 30135, 30282, 30422, 30555, 30680,
    30799, 30912, 31018, 31119, 31214, 31304, 31389, 31469, 31545, 31616, 31684, 31747, 31807, 31864, 31917,
    31968, 32015, 32060, 32102, 32141, 32179, 32214, 32247, 32278, 32307, 32335, 32361, 32385, 32408, 32430,
    32450, 32469, 32487, 32504, 32520, 32535, 32549, 32562, 32574, 32586, 32597, 32607, 32617, 32626, 32635,
    32643, 32650, 32657, 32664, 32670, 32676, 32682, 32768};

/* Return how far the log-odds of a score, from 0 to SNN_EVIDENCE_SCORE, lie above the smallest ones. */
static inline int32_t snn_log_odds(int32_t score)
{
    int32_t low = 0, high = SNN_ODDS + 1; /* the score is that of low or larger, and smaller than that of high */
    while (high - low > 1) {
        const int32_t middle = (low + high) / 2;
        if (snn_score_of_odds[middle] <= score)
            low = middle;
        else
            high = middle;
    }
    if (low == SNN_ODDS)
        return SNN_ODDS << SNN_PART_BITS;
    const int32_t first = snn_score_of_odds[low], step = snn_score_of_odds[low + 1] - first;
    return (low << SNN_PART_BITS) + ((score - first) << SNN_PART_BITS) / step;
}

/* Return the evidence after a frame with a score. Right shifts of negative numbers are arithmetic. */
static inline int32_t snn_accumulated(int32_t evidence, int32_t score, int32_t leak, int32_t weight, int32_t bias)
{
    const int32_t kept = evidence - ((evidence * leak) >> SNN_LEAK_BITS);
    const int32_t now = kept + ((weight * (snn_log_odds(score) - bias)) >> SNN_PART_BITS);
    if (now < 0)
        return 0;
    return now < (SNN_ODDS << SNN_PART_BITS) ? now : SNN_ODDS << SNN_PART_BITS;
}

/* Return evidence as a score, from 0 to SNN_EVIDENCE_SCORE. */
static inline int32_t snn_score_of_evidence(int32_t evidence)
{
    const int32_t at = evidence >> SNN_PART_BITS, part = evidence & ((1 << SNN_PART_BITS) - 1);
    if (at == SNN_ODDS)
        return SNN_EVIDENCE_SCORE;
    const int32_t first = snn_score_of_odds[at], step = snn_score_of_odds[at + 1] - first;
    return first + ((step * part) >> SNN_PART_BITS);
}

#endif
