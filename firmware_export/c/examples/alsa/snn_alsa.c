/* The detector on Linux: a microphone through ALSA, events as lines of JSON on standard output.
 *
 *     ./snn_alsa [DEVICE]      as arecord -L names it; "default" without one; ends on SIGINT or SIGTERM
 *
 * After lost samples, open sounds get their offsets, a line of type gap is printed, and positions restart at 0.
 */
#define _POSIX_C_SOURCE 200809L /* sigaction, and the time types in ALSA's header */
#include <alloca.h>
#include <alsa/asoundlib.h>
#include <errno.h>
#include <signal.h>
#include <stdio.h>
#include <string.h>

#include "snn_print.h"

#define BLOCK (SNN_SAMPLE_RATE_HZ / 50) /* 20 ms */
#define BUFFER_US 500000                /* longest time without a read */

static volatile sig_atomic_t has_to_end;

static void on_signal(int number)
{
    (void)number;
    has_to_end = 1;
}

static void print_line(const snn_line *line)
{
    fwrite(line->text, 1, line->length, stdout);
    fflush(stdout);
}

static void on_event(void *context, const snn_event *event)
{
    snn_line line = {0};
    (void)context;
    snn_put_event(&line, event);
    print_line(&line);
}

static int report_error(const char *what, int error)
{
    fprintf(stderr, "snn_alsa: %s: %s\n", what, snd_strerror(error));
    return 1;
}

/* Both signals interrupt reads: no SA_RESTART. */
static void catch_signals(void)
{
    struct sigaction action;
    memset(&action, 0, sizeof action);
    action.sa_handler = on_signal;
    sigemptyset(&action.sa_mask);
    sigaction(SIGINT, &action, NULL);
    sigaction(SIGTERM, &action, NULL);
}

/* Restart the device after an overrun or a suspend; return 0, or an error that cannot be recovered from. */
static int recover(snd_pcm_t *pcm, int error)
{
    static const struct timespec wait = {0, 100 * 1000 * 1000};
    if (error == -ESTRPIPE) {
        while ((error = snd_pcm_resume(pcm)) == -EAGAIN && !has_to_end)
            nanosleep(&wait, NULL);
        if (error == 0)
            return 0;
    } else if (error != -EPIPE) {
        return error;
    }
    error = snd_pcm_prepare(pcm);
    return error < 0 ? error : snd_pcm_start(pcm);
}

/* Report offsets of open sounds: the next samples do not follow the last ones. */
static void pass_gap(snn_detector *detector, int64_t *samples)
{
    snn_line line = {0};
    snn_flush(detector);
    snn_put_integer(&line, "{\"type\":\"gap\",\"samples_before\":", *samples);
    snn_put_text(&line, "}\n");
    print_line(&line);
    *samples = 0;
}

static int capture(snd_pcm_t *pcm, snn_detector *detector)
{
    int16_t block[BLOCK];
    int64_t samples = 0;
    while (!has_to_end && !ferror(stdout)) {
        snd_pcm_sframes_t n = snd_pcm_readi(pcm, block, BLOCK);
        if (n >= 0) {
            snn_push(detector, block, (size_t)n);
            samples += n;
        } else if (n != -EINTR && n != -EAGAIN) {
            int error = recover(pcm, (int)n);
            if (error < 0)
                return report_error("the device is gone", error);
            pass_gap(detector, &samples);
        }
    }
    return 0;
}

int main(int argc, char **argv)
{
    static snn_detector detector;
    const char *device = argc > 1 ? argv[1] : "default";
    snd_pcm_t *pcm;
    if (argc > 2 || device[0] == '-') {
        fprintf(stderr, "usage: snn_alsa [DEVICE]\n");
        return 2;
    }
    int error = snd_pcm_open(&pcm, device, SND_PCM_STREAM_CAPTURE, 0);
    if (error < 0)
        return report_error(device, error);
    error = snd_pcm_set_params(pcm, SND_PCM_FORMAT_S16, SND_PCM_ACCESS_RW_INTERLEAVED, 1, SNN_SAMPLE_RATE_HZ, 1,
                               BUFFER_US);
    if (error < 0)
        return report_error(device, error);
    catch_signals();
    snn_init(&detector, on_event, NULL);
    int status = capture(pcm, &detector);
    snn_flush(&detector);
    snd_pcm_close(pcm);
    return status || ferror(stdout);
}
