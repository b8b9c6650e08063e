/* How deep the stack has been: painted beforehand, looked at afterwards. */
#ifndef STACK_H
#define STACK_H

#include <stddef.h>
#include <stdint.h>

extern uint32_t stack_limit[], stack_top[]; /* the linker's; it grows down from the top */

/* Paint what lies below the caller's part. */
void stack_paint(void);

/* Bytes between a place and the deepest word that lost its paint. */
size_t stack_depth(const uint32_t *from);

/* The caller's stack pointer. */
static inline uint32_t *stack_pointer(void)
{
    uint32_t *pointer;
    __asm__ volatile("mov %0, sp" : "=r"(pointer));
    return pointer;
}

#endif
