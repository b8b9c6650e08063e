/* The detector without an operating system: raw 16-bit samples from a file of the host in small blocks, events as
 * lines of JSON to standard output and, at the end, one line with the resources used to standard error.
 *
 * The command line names the file; without one, samples come from standard input. On your own board, replace
 * semihosting by its microphone and radio; detector, queue and loop stay.
 */
#include <string.h>

#include "semihosting.h"
#include "snn_print.h"
#include "stack.h"
#include "ticks.h"

#define BLOCK 160 /* 10 ms at 16 kHz, as from a DMA buffer */

/* A block no longer than a hop completes at most one frame; a flush adds one and an offset per class. */
#define MAX_EVENTS (3 * SNN_CLASSES)
typedef char block_is_short_enough[BLOCK <= SNN_HOP_LENGTH ? 1 : -1];

typedef struct {
    snn_event events[MAX_EVENTS];
    size_t count;
} event_queue;

typedef struct {
    uint64_t samples, ticks;
    size_t most_ticks; /* in one block */
    size_t detector_stack, program_stack; /* the deepest */
} usage;

static snn_detector detector;
static event_queue queue;

/* Called during a push: slow work waits until the push is over. */
static void on_event(void *context, const snn_event *event)
{
    event_queue *q = context;
    if (q->count < MAX_EVENTS)
        q->events[q->count++] = *event;
}

static int show_events(int32_t file)
{
    int is_written = 1;
    for (size_t i = 0; i < queue.count; i++) {
        snn_line line = {0};
        snn_put_event(&line, &queue.events[i]);
        is_written &= host_write(file, line.text, line.length);
    }
    queue.count = 0;
    return is_written;
}

static size_t larger(size_t a, size_t b)
{
    return a > b ? a : b;
}

/* Only the detector runs between the two readings of the timer, and of the stack. */
static void push_counted(const int16_t *samples, size_t n, usage *used)
{
    used->program_stack = larger(used->program_stack, stack_depth(stack_top));
    stack_paint();
    uint32_t from = ticks_now();
    snn_push(&detector, samples, n);
    uint32_t ticks = ticks_between(from, ticks_now());
    used->detector_stack = larger(used->detector_stack, stack_depth(stack_pointer()));
    used->program_stack = larger(used->program_stack, stack_depth(stack_top));
    used->samples += n;
    used->ticks += ticks;
    used->most_ticks = larger(used->most_ticks, ticks);
}

static int show_usage(int32_t file, const usage *used)
{
    /* Two loops of known length: the first gives the unit, the second is a check on it. */
    const uint32_t unit_loop = 4000000, check_loop = 1000000;
    uint32_t taken = ticks_of_loop(unit_loop), unit = (unit_loop + taken / 2) / taken;
    snn_line line = {0};
    snn_put_integer(&line, "{\"samples\":", (int64_t)used->samples);
    snn_put_integer(&line, ",\"ticks\":", (int64_t)used->ticks);
    snn_put_integer(&line, ",\"most_ticks\":", (int64_t)used->most_ticks);
    snn_put_integer(&line, ",\"instructions_per_tick\":", unit);
    snn_put_integer(&line, ",\"loop_of_1000000\":", (int64_t)ticks_of_loop(check_loop) * unit);
    snn_put_integer(&line, ",\"detector_stack\":", (int64_t)used->detector_stack);
    snn_put_integer(&line, ",\"program_stack\":", (int64_t)used->program_stack);
    snn_put_integer(&line, ",\"detector_bytes\":", (int64_t)sizeof detector);
    snn_put_text(&line, "}\n");
    return host_write(file, line.text, line.length);
}

static int32_t open_samples(void)
{
    static char words[256];
    const char *name = host_command_line(words, sizeof words) ? strchr(words, ' ') : NULL;
    return host_open(name ? name + 1 : HOST_CONSOLE, HOST_READ);
}

int main(void)
{
    int16_t block[BLOCK];
    usage used = {0};
    size_t bytes;
    int32_t samples = open_samples(), out = host_open(HOST_CONSOLE, HOST_WRITE);
    if (samples < 0 || out < 0)
        return 2;
    ticks_start();
    snn_init(&detector, on_event, &queue);
    while ((bytes = host_read(samples, block, sizeof block)) > 0) {
        push_counted(block, bytes / sizeof *block, &used);
        if (!show_events(out))
            return 1;
    }
    snn_flush(&detector);
    if (!show_events(out))
        return 1;
    return show_usage(host_open(HOST_CONSOLE, HOST_APPEND), &used) ? 0 : 1;
}
