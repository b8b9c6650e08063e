/* Events as lines of JSON: no stdio, no double precision, no heap.
 * Not part of the detector: link it only to print or send events.
 */
#ifndef SNN_PRINT_H
#define SNN_PRINT_H

#include <stddef.h>

#include "snn_detect.h"

#ifdef __cplusplus
extern "C" {
#endif

/* A text buffer; text that does not fit is cut off. Start with a length of 0. */
#define SNN_LINE 320 /* an event whose label has up to 64 characters */
typedef struct {
    size_t length;
    char text[SNN_LINE]; /* not terminated */
} snn_line;

/* Append an event and a line feed. */
void snn_put_event(snn_line *line, const snn_event *event);

/* Append text, for other lines. */
void snn_put_text(snn_line *line, const char *text);
void snn_put_integer(snn_line *line, const char *text_before, int64_t value);

#ifdef __cplusplus
}
#endif
#endif
