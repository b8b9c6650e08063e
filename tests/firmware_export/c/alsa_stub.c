/* A replacement of libasound: a microphone that plays standard input and overruns once, after OVERRUN samples. */
#define _POSIX_C_SOURCE 200809L
#include <alloca.h>
#include <alsa/asoundlib.h>
#include <errno.h>
#include <signal.h>
#include <stdio.h>
#include <stdlib.h>

static long left;
static int is_prepared = 1, has_overrun;

int snd_pcm_open(snd_pcm_t **pcm, const char *name, snd_pcm_stream_t stream, int mode)
{
    (void)name, (void)stream, (void)mode;
    *pcm = NULL;
    left = strtol(getenv("OVERRUN"), NULL, 10);
    return 0;
}

int snd_pcm_set_params(snd_pcm_t *pcm, snd_pcm_format_t format, snd_pcm_access_t access, unsigned channels,
                       unsigned rate, int soft_resample, unsigned latency)
{
    (void)pcm, (void)access, (void)soft_resample, (void)latency;
    return format == SND_PCM_FORMAT_S16 && channels == 1 && rate == 16000 ? 0 : -EINVAL;
}

snd_pcm_sframes_t snd_pcm_readi(snd_pcm_t *pcm, void *buffer, snd_pcm_uframes_t size)
{
    (void)pcm;
    if (!is_prepared)
        return -EPIPE;
    if (!left && !has_overrun) {
        has_overrun = 1;
        is_prepared = 0;
        return -EPIPE;
    }
    if (left && size > (snd_pcm_uframes_t)left)
        size = (snd_pcm_uframes_t)left;
    snd_pcm_sframes_t n = (snd_pcm_sframes_t)fread(buffer, 2, size, stdin);
    left -= left ? n : 0;
    if (n == 0) {
        raise(SIGTERM);
        return -EINTR;
    }
    return n;
}

int snd_pcm_prepare(snd_pcm_t *pcm)
{
    (void)pcm;
    is_prepared = 1;
    return 0;
}

int snd_pcm_resume(snd_pcm_t *pcm)
{
    (void)pcm;
    return -ENOSYS;
}

int snd_pcm_start(snd_pcm_t *pcm)
{
    (void)pcm;
    return is_prepared ? 0 : -EBADFD;
}

int snd_pcm_close(snd_pcm_t *pcm)
{
    (void)pcm;
    return 0;
}

const char *snd_strerror(int error)
{
    return error ? "wrong" : "right";
}
