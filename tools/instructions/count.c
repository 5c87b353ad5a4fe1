/* Counts the instructions of a run and of each of its steps, on the board's timer: the emulator gives each instruction
   the same time (qemu -icount), so that the difference of two readings says how many lie between them. */
#include <stdint.h>
#include <stdio.h>

#ifndef COUNT_STEPS
#define COUNT_STEPS 0 /* tensors that are traced */
#endif

static volatile uint32_t *const timer = (volatile uint32_t *)0x40000000; /* control, value, reload: 25 MHz, downwards */
static uint32_t before, steps[COUNT_STEPS + 1], step;

static void note(void)
{
    const uint32_t now = timer[1];
    steps[step++] = before - now;
    before = timer[1];
}

#if COUNT_STEPS
#define ISOBIT_TRACE(tensor, codes, count) note()
#include "model.c"
#else
#include "model.h"
#endif

static volatile uint32_t runs = COUNTED_RUNS;
static uint8_t codes[COUNTED_CODES];
static float logits[COUNTED_LOGITS];

int main(void)
{
    uint32_t random = 1;
    for (uint32_t i = 0; i < sizeof codes; i++) {
        random = random * 1664525u + 1013904223u;
        codes[i] = (uint8_t)(random >> 24);
    }
    timer[1] = timer[2] = UINT32_MAX;
    timer[0] = 1;
    before = timer[1];
    note();
    const uint32_t nothing = steps[--step];
    before = timer[1];
    for (uint32_t run = 0; run < runs; run++) {
        COUNTED_RUN(codes, logits);
    }
    note();
    printf("%lu\n", (unsigned long)nothing);
    for (uint32_t i = 0; i < step; i++) {
        printf("%lu\n", (unsigned long)steps[i]);
    }
    return 0;
}
