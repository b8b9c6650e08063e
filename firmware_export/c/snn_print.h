/* Events as lines of JSON, for those who show or send them: no stdio, no double precision, no heap.
 * Not part of the detector: a program that keeps its events to itself does not link it.
 */
#ifndef SNN_PRINT_H
#define SNN_PRINT_H

#include <stddef.h>

#include "snn_detect.h"

#ifdef __cplusplus
extern "C" {
#endif

/* Text under way; what does not fit is cut off. Begin with a length of 0. */
#define SNN_LINE 320 /* an event whose label has up to 64 characters */
typedef struct {
    size_t length;
    char text[SNN_LINE]; /* no zero behind it */
} snn_line;

/* An event and a line feed. */
void snn_put_event(snn_line *line, const snn_event *event);

/* The parts, for lines of one's own. */
void snn_put_text(snn_line *line, const char *text);
void snn_put_integer(snn_line *line, const char *text_before, int64_t value);

#ifdef __cplusplus
}
#endif
#endif
