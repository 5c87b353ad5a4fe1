/* The language leaves the right shift of negative numbers to the compiler; every kernel needs the arithmetic one. */
typedef char right_shift_is_arithmetic[((int32_t)-2 >> 1) == -1 ? 1 : -1];

/* Which instructions the kernels use, for the same integers. LANES: Helium of Cortex-M55 and M85, vectors of 16 bytes.
   PAIRS: Cortex-M4, M7 and M33 multiply two pairs of 16 bits in one instruction and add both products. Otherwise they
   are plain C. */
#if defined(__ARM_FEATURE_MVE) && (__ARM_FEATURE_MVE & 1) && !defined(__ARM_BIG_ENDIAN)
#define LANES 1
#define PAIRS 0

#include <arm_mve.h>

#elif defined(__ARM_FEATURE_DSP) && defined(__ARM_FEATURE_SIMD32) && !defined(__ARM_BIG_ENDIAN)
#define LANES 0
#define PAIRS 1

#include <arm_acle.h>

#else
#define LANES 0
#define PAIRS 0
#endif

#if LANES || PAIRS
#define APART __attribute__((noinline, unused))      /* inlined, it would compete for registers */
#define WITHIN inline __attribute__((always_inline)) /* with -Os too: these are one instruction or few */
#endif

#if PAIRS
static WITHIN uint32_t word_at(const void *bytes)
{
    uint32_t word;
    memcpy(&word, bytes, sizeof word); /* one load: these processors read and write words at any address */
    return word;
}
#endif

/* Of one tensor of one sample; elements lie in the order height, width, channels. */
struct shape {
    int32_t height, width, channels;
};

/* clip((sum of terms + offset) >> (32 + shift), low, high) */
struct rescale {
    int64_t offset;
    int32_t shift;
    int32_t low, high;
};

/* One of the terms: (value << lift) * multiplier[channel * step]; step is 0 where all channels share one. */
struct term {
    const int32_t *multiplier;
    int32_t step;
    int32_t lift;
};

/* A 32 x 32 -> 64 bit product: one SMULL on a Cortex-M, SMLAL with the addition around it. */
static inline int64_t scaled(const struct term *t, int32_t value, int32_t channel)
{
    const int32_t lifted = (int32_t)((uint32_t)value << t->lift);
    return (int64_t)lifted * t->multiplier[channel * t->step];
}

/* Takes the upper word first: what is left is a shift of 32 bits, and rounding down twice is rounding down once. */
static inline uint8_t to_code(const struct rescale *r, int64_t sum)
{
    const int32_t code = (int32_t)(sum >> 32) >> r->shift;
    return (uint8_t)(code < r->low ? r->low : code > r->high ? r->high : code);
}
