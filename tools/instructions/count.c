/* Counts the instructions of a run and of each of its steps, on the board's timer: the emulator gives each instruction
   the same time (qemu -icount), so that the difference of two readings says how many lie between them. */
#include <stdint.h>
#include <stdio.h>

#ifndef COUNT_STEPS
#define COUNT_STEPS 0 /* tensors that are traced */
#endif

#ifdef COUNTED_UPWARDS /* MPS3 AN547: control, status, value of 64 bits: 32 MHz, upwards */
static volatile uint32_t *const timer = (volatile uint32_t *)0x58100000;
#define VALUE (-timer[2])
#else /* MPS2 AN386: control, value, reload: 25 MHz, downwards */
static volatile uint32_t *const timer = (volatile uint32_t *)0x40000000;
#define VALUE timer[1]
#endif

static uint32_t before, steps[COUNT_STEPS + 1], step;

static void note(void)
{
    const uint32_t now = VALUE;
    steps[step++] = before - now;
    before = VALUE;
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
#ifndef COUNTED_UPWARDS
    timer[1] = timer[2] = UINT32_MAX;
#endif
    timer[0] = 1;
    before = VALUE;
    note();
    const uint32_t nothing = steps[--step];
    before = VALUE;
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
