/* Replays the golden vectors of this artifact: every quantized tensor of every sample, and the logits, bit by bit.

       cc -std=c99 -O2 main_test.c -o main_test -lm && ./main_test

   Prints PASS or FAIL as its last line and returns 0 or 1. With -DGOLDEN_SAMPLES=1 one sample is replayed, and golden.h
   takes that much less flash. Not part of a firmware. */
#include <stdint.h>
#include <stdio.h>
#include <string.h>

#include "golden.h"

/* GOLDEN_SAMPLES is one of those that there are. */
typedef char samples_are_there[GOLDEN_SAMPLES >= 1 &&
                               GOLDEN_SAMPLES <= sizeof golden_tensors[0].checksums / sizeof(uint32_t) ? 1 : -1];

static uint32_t sample, tensors_seen, differing;

/* The order counts, and no change of a single code can leave the sum as it is: the factor is odd. */
static uint32_t checksum(const uint8_t *codes, uint32_t count)
{
    uint32_t sum = 0;
    for (uint32_t i = 0; i < count; i++) {
        sum = sum * GOLDEN_FACTOR + codes[i];
    }
    return sum;
}

#ifdef GOLDEN_NEAR
/* Whether the tensor stands right after a float operator. Its codes may differ by what float rounding explains; what
   comes next is computed from the golden ones. */
static int is_near(uint32_t tensor, const uint8_t *codes, uint32_t count)
{
    for (uint32_t place = 0; place < GOLDEN_NEAR; place++) {
        if (golden_near[place].tensor == tensor) {
            const uint8_t *golden = golden_near[place].codes + sample * count;
            const uint8_t *room = golden_near[place].room + sample * count;
            int differs = 0;
            for (uint32_t i = 0; i < count; i++) {
                const int step = codes[i] - golden[i];
                differs |= step < -(room[i] & 3) || step > room[i] >> 2;
            }
            memcpy((uint8_t *)codes, golden, count); /* they lie in the arena */
            if (differs) {
                differing++;
                printf("sample %lu: %s differs\n", (unsigned long)sample, golden_tensors[tensor].name);
            }
            return 1;
        }
    }
    return 0;
}
#endif

static void check(uint32_t tensor, const uint8_t *codes, uint32_t count)
{
    if (golden_tensors[tensor].name == NULL) {
        return; /* codes on their way, not a quantized tensor of the network */
    }
    tensors_seen++;
#ifdef GOLDEN_NEAR
    if (is_near(tensor, codes, count)) {
        return;
    }
#endif
    if (checksum(codes, count) != golden_tensors[tensor].checksums[sample]) {
        differing++;
        printf("sample %lu: %s differs\n", (unsigned long)sample, golden_tensors[tensor].name);
    }
}

#define ISOBIT_TRACE(tensor, codes, count) check(tensor, codes, count)
#include "model.c"

/* Whether the logits are the golden ones: bit by bit, or as near as float operators of any C library come. */
static int are_golden(const float *logits, const uint32_t *golden)
{
#ifdef GOLDEN_OUTPUTS
    for (uint32_t output = 0; output < GOLDEN_OUTPUTS; output++) {
        const uint32_t count = golden_outputs[output].count;
        float largest = 0.0f;
        for (uint32_t i = 0; i < count; i++) {
            float value;
            memcpy(&value, golden + i, sizeof value);
            if (value - value == 0.0f) { /* not infinite */
                largest = value > largest ? value : -value > largest ? -value : largest;
            }
        }
        for (uint32_t i = 0; i < count; i++) {
            float value;
            memcpy(&value, golden + i, sizeof value);
            const float error = logits[i] > value ? logits[i] - value : value - logits[i];
            if (!(logits[i] == value || error <= golden_outputs[output].allowed * largest)) {
                return 0;
            }
        }
        logits += count;
        golden += count;
    }
    return 1;
#else
    return memcmp(logits, golden, GOLDEN_LOGITS * sizeof *logits) == 0;
#endif
}

int main(void)
{
    static float logits[GOLDEN_LOGITS];
    for (sample = 0; sample < GOLDEN_SAMPLES; sample++) {
        GOLDEN_RUN(GOLDEN_ARGUMENTS(sample), logits);
        if (!are_golden(logits, golden_logits[sample])) {
            differing++;
            printf("sample %lu: logits differ\n", (unsigned long)sample);
        }
    }
    printf("samples: %lu, tensors compared: %lu, differing: %lu\n", (unsigned long)sample, (unsigned long)tensors_seen,
           (unsigned long)differing);
    const int passed = differing == 0 && tensors_seen > 0 && tensors_seen == GOLDEN_SAMPLES * GOLDEN_QUANTIZED;
    puts(passed ? "PASS" : "FAIL");
    return passed ? 0 : 1;
}
