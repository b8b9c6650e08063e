/* Files of the host that debugs or emulates this core, by Arm's semihosting calls. */
#ifndef SEMIHOSTING_H
#define SEMIHOSTING_H

#include <stddef.h>
#include <stdint.h>

typedef enum { HOST_READ = 1, HOST_WRITE = 4, HOST_APPEND = 8 } host_mode;

/* The console: standard input, output or, with HOST_APPEND, standard error. */
#define HOST_CONSOLE ":tt"

/* Return a handle, or -1. */
int32_t host_open(const char *name, host_mode mode);

/* Return the number of bytes read; 0 at the end or on failure. */
size_t host_read(int32_t file, void *data, size_t size);

/* Return whether all was written. */
int host_write(int32_t file, const void *data, size_t size);

/* Copy the command line; return whether there is one and it fits. */
int host_command_line(char *text, size_t size);

void host_exit(int status) __attribute__((noreturn));

#endif
