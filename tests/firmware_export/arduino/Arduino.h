/* What the sketches use of Arduino's core, on the example board: the serial port is the host's file and console. */
#ifndef ARDUINO_H
#define ARDUINO_H

#include <stddef.h>
#include <stdint.h>
#include <string.h>

class SerialPort {
public:
    void begin(unsigned long baud);
    size_t readBytes(char *data, size_t size);
    size_t write(const uint8_t *data, size_t size);
    size_t println(const char *text);
};

extern SerialPort Serial;

void setup();
void loop();

#endif
