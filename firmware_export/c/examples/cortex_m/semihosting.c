/* A call is a breakpoint with the number 0xab: r0 is the call, r1 points to its arguments. */
#include "semihosting.h"

#include <string.h>

enum { SYS_OPEN = 0x01, SYS_WRITE = 0x05, SYS_READ = 0x06, SYS_GET_CMDLINE = 0x15, SYS_EXIT_EXTENDED = 0x20 };

#define APPLICATION_EXIT 0x20026u

static uint32_t call(uint32_t number, const void *arguments)
{
    register uint32_t r0 __asm__("r0") = number;
    register const void *r1 __asm__("r1") = arguments;
    __asm__ volatile("bkpt 0xab" : "+r"(r0) : "r"(r1) : "memory");
    return r0;
}

int32_t host_open(const char *name, host_mode mode)
{
    uint32_t arguments[3] = {(uint32_t)name, (uint32_t)mode, strlen(name)};
    return (int32_t)call(SYS_OPEN, arguments);
}

size_t host_read(int32_t file, void *data, size_t size)
{
    uint32_t arguments[3] = {(uint32_t)file, (uint32_t)data, size};
    uint32_t missing = call(SYS_READ, arguments);
    return missing <= size ? size - missing : 0;
}

int host_write(int32_t file, const void *data, size_t size)
{
    uint32_t arguments[3] = {(uint32_t)file, (uint32_t)data, size};
    return call(SYS_WRITE, arguments) == 0;
}

int host_command_line(char *text, size_t size)
{
    uint32_t arguments[2] = {(uint32_t)text, size};
    return call(SYS_GET_CMDLINE, arguments) == 0 && arguments[1] > 0;
}

void host_exit(int status)
{
    uint32_t arguments[2] = {APPLICATION_EXIT, (uint32_t)status};
    for (;;)
        call(SYS_EXIT_EXTENDED, arguments);
}
