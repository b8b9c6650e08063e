/* Arduino's PDM library, whose microphone is a file of the host. */
#ifndef PDM_H
#define PDM_H

#include <stddef.h>

class PDMClass {
public:
    int begin(int channels, int rate_hz);
    void onReceive(void (*on_samples)());
    int available();
    int read(void *data, size_t size);
};

extern PDMClass PDM;

#endif
