/* A board that runs a sketch until its sound ends: the file that the command line names is what its microphone or its
 * serial port receives; what it writes to the serial port goes to standard output.
 */
#include "Arduino.h"
#include "PDM.h"

extern "C" {
#include "semihosting.h"
int main(void);
}

SerialPort Serial;
PDMClass PDM;

static int32_t sound, out;
static int has_ended;
static void (*receive)();
static int16_t block[256]; /* 16 ms: what the PDM library gives an interrupt by default */
static size_t filled;

void SerialPort::begin(unsigned long) {}

size_t SerialPort::readBytes(char *data, size_t size)
{
    size_t bytes = host_read(sound, data, size > 99 ? 99 : size); /* halves of samples come as well */
    has_ended |= bytes == 0;
    return bytes;
}

size_t SerialPort::write(const uint8_t *data, size_t size)
{
    return host_write(out, data, size) ? size : 0;
}

size_t SerialPort::println(const char *text)
{
    return write((const uint8_t *)text, strlen(text)) + write((const uint8_t *)"\r\n", 2);
}

int PDMClass::begin(int channels, int rate_hz)
{
    return channels == 1 && rate_hz == 16000;
}

void PDMClass::onReceive(void (*on_samples)())
{
    receive = on_samples;
}

int PDMClass::available()
{
    return (int)filled;
}

int PDMClass::read(void *data, size_t size)
{
    size_t bytes = size < filled ? size : filled;
    memcpy(data, block, bytes);
    filled = 0;
    return (int)bytes;
}

/* The interrupt of the microphone comes between two turns of the loop; BURST of them make the loop late. */
static void interrupt()
{
    filled = host_read(sound, block, sizeof block);
    has_ended |= filled == 0;
    if (filled)
        receive();
}

int main(void)
{
    static char words[256];
    const char *name = host_command_line(words, sizeof words) ? strchr(words, ' ') : NULL;
    sound = host_open(name ? name + 1 : HOST_CONSOLE, HOST_READ);
    out = host_open(HOST_CONSOLE, HOST_WRITE);
    setup();
    while (!has_ended) {
        for (int i = 0; receive && i < BURST; i++)
            interrupt();
        loop();
    }
    for (int i = 0; receive && i < 64; i++)
        loop();
    return 0;
}
