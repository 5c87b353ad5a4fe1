/* What model.c uses of Arm's arm_mve.h, lane by lane in C of gcc and clang: so that a sanitizer of this machine sees what
   its kernels for Helium read and write. Of a predicate each byte of a vector has a bit. */
#include <stdint.h>

typedef uint16_t mve_pred16_t;

#define TYPES(bits, lanes)                                                                                             \
    typedef int##bits##_t int##bits##x##lanes##_t __attribute__((vector_size(16)));                                    \
    typedef uint##bits##_t uint##bits##x##lanes##_t __attribute__((vector_size(16)));
TYPES(8, 16)
TYPES(16, 8)
TYPES(32, 4)

/* One function each: its result, name, arguments, and what lane i of it is. */
#define LANEWISE(result, lanes, name, arguments, value)                                                                \
    static inline result name arguments                                                                                \
    {                                                                                                                  \
        result made;                                                                                                   \
        for (int i = 0; i < lanes; i++) {                                                                              \
            made[i] = value;                                                                                           \
        }                                                                                                              \
        return made;                                                                                                   \
    }
#define EFFECT(lanes, name, arguments, statement)                                                                      \
    static inline void name arguments                                                                                  \
    {                                                                                                                  \
        for (int i = 0; i < lanes; i++) {                                                                              \
            statement;                                                                                                 \
        }                                                                                                              \
    }
#define SUM(lanes, name, arguments, value)                                                                             \
    static inline int32_t name arguments                                                                               \
    {                                                                                                                  \
        uint32_t made = (uint32_t)sum;                                                                                 \
        for (int i = 0; i < lanes; i++) {                                                                              \
            made += (uint32_t)(value);                                                                                 \
        }                                                                                                              \
        return (int32_t)made;                                                                                          \
    }
#define CAST(to, from, name)                                                                                           \
    static inline to name(from v)                                                                                      \
    {                                                                                                                  \
        return (to)v;                                                                                                  \
    }
#define PREDICATE(name, lanes)                                                                                         \
    static inline mve_pred16_t name(uint32_t count)                                                                    \
    {                                                                                                                  \
        return (mve_pred16_t)(count < lanes ? (1u << count * (16 / lanes)) - 1u : 0xffffu);                            \
    }
#define ON(lanes) (p >> i * (16 / lanes) & 1)

PREDICATE(vctp8q, 16)
PREDICATE(vctp16q, 8)
PREDICATE(vctp32q, 4)

LANEWISE(int8x16_t, 16, vldrbq_s8, (const int8_t *x), x[i])
LANEWISE(uint8x16_t, 16, vldrbq_u8, (const uint8_t *x), x[i])
LANEWISE(int16x8_t, 8, vldrbq_s16, (const int8_t *x), x[i])
LANEWISE(uint16x8_t, 8, vldrbq_u16, (const uint8_t *x), x[i])
LANEWISE(int8x16_t, 16, vldrbq_z_s8, (const int8_t *x, mve_pred16_t p), ON(16) ? x[i] : 0)
LANEWISE(uint8x16_t, 16, vldrbq_z_u8, (const uint8_t *x, mve_pred16_t p), ON(16) ? x[i] : 0)
LANEWISE(int16x8_t, 8, vldrbq_z_s16, (const int8_t *x, mve_pred16_t p), ON(8) ? x[i] : 0)
LANEWISE(uint16x8_t, 8, vldrbq_z_u16, (const uint8_t *x, mve_pred16_t p), ON(8) ? x[i] : 0)
LANEWISE(uint32x4_t, 4, vldrbq_z_u32, (const uint8_t *x, mve_pred16_t p), ON(4) ? x[i] : 0)
LANEWISE(int32x4_t, 4, vldrwq_s32, (const int32_t *x), x[i])
EFFECT(16, vstrbq_s8, (int8_t *y, int8x16_t v), y[i] = v[i])
EFFECT(16, vstrbq_p_s8, (int8_t *y, int8x16_t v, mve_pred16_t p), if (ON(16)) y[i] = v[i])
EFFECT(16, vstrbq_p_u8, (uint8_t *y, uint8x16_t v, mve_pred16_t p), if (ON(16)) y[i] = v[i])
EFFECT(8, vstrbq_p_u16, (uint8_t *y, uint16x8_t v, mve_pred16_t p), if (ON(8)) y[i] = (uint8_t)v[i])
EFFECT(4, vstrbq_p_u32, (uint8_t *y, uint32x4_t v, mve_pred16_t p), if (ON(4)) y[i] = (uint8_t)v[i])
EFFECT(4, vstrwq_s32, (int32_t *y, int32x4_t v), y[i] = v[i])

LANEWISE(int8x16_t, 16, vdupq_n_s8, (int8_t a), a)
LANEWISE(uint8x16_t, 16, vdupq_n_u8, (uint8_t a), a)
LANEWISE(int16x8_t, 8, vdupq_n_s16, (int16_t a), a)
LANEWISE(uint16x8_t, 8, vdupq_n_u16, (uint16_t a), a)
LANEWISE(int32x4_t, 4, vdupq_n_s32, (int32_t a), a)
LANEWISE(uint32x4_t, 4, vdupq_n_u32, (uint32_t a), a)
CAST(int16x8_t, uint16x8_t, vreinterpretq_s16_u16)
CAST(int32x4_t, uint32x4_t, vreinterpretq_s32_u32)
CAST(int8x16_t, uint8x16_t, vreinterpretq_s8_u8)
CAST(uint16x8_t, int16x8_t, vreinterpretq_u16_s16)
CAST(uint32x4_t, int32x4_t, vreinterpretq_u32_s32)
CAST(uint8x16_t, uint16x8_t, vreinterpretq_u8_u16)
CAST(uint8x16_t, uint32x4_t, vreinterpretq_u8_u32)

/* Signed sums and products wrap around. */
#define WRAPPED(a, operation, b) ((int32_t)((uint32_t)(a) operation (uint32_t)(b)))
LANEWISE(int16x8_t, 8, vaddq_s16, (int16x8_t a, int16x8_t b), (int16_t)(a[i] + b[i]))
LANEWISE(uint16x8_t, 8, vaddq_u16, (uint16x8_t a, uint16x8_t b), (uint16_t)(a[i] + b[i]))
LANEWISE(int32x4_t, 4, vaddq_s32, (int32x4_t a, int32x4_t b), WRAPPED(a[i], +, b[i]))
LANEWISE(int32x4_t, 4, vaddq_n_s32, (int32x4_t a, int32_t b), WRAPPED(a[i], +, b))
LANEWISE(uint32x4_t, 4, vaddq_u32, (uint32x4_t a, uint32x4_t b), a[i] + b[i])
LANEWISE(uint32x4_t, 4, vaddq_n_u32, (uint32x4_t a, uint32_t b), a[i] + b)
LANEWISE(int32x4_t, 4, vaddq_m_n_s32, (int32x4_t other, int32x4_t a, int32_t b, mve_pred16_t p),
         ON(4) ? WRAPPED(a[i], +, b) : other[i])
LANEWISE(int8x16_t, 16, vsubq_n_s8, (int8x16_t a, int8_t b), (int8_t)(a[i] - b))
LANEWISE(int32x4_t, 4, vsubq_n_s32, (int32x4_t a, int32_t b), WRAPPED(a[i], -, b))
LANEWISE(int16x8_t, 8, vmulq_s16, (int16x8_t a, int16x8_t b), (int16_t)(a[i] * b[i]))
LANEWISE(int32x4_t, 4, vmulq_s32, (int32x4_t a, int32x4_t b), WRAPPED(a[i], *, b[i]))
LANEWISE(int32x4_t, 4, vmulhq_s32, (int32x4_t a, int32x4_t b), (int32_t)((int64_t)a[i] * b[i] >> 32))
LANEWISE(int32x4_t, 4, vrmulhq_s32, (int32x4_t a, int32x4_t b),
         (int32_t)(((int64_t)a[i] * b[i] + INT64_C(0x80000000)) >> 32))
LANEWISE(int32x4_t, 4, vmlaq_n_s32, (int32x4_t sum, int32x4_t a, int32_t b), WRAPPED(sum[i], +, WRAPPED(a[i], *, b)))
LANEWISE(int16x8_t, 8, vabsq_s16, (int16x8_t a), (int16_t)(a[i] < 0 ? -a[i] : a[i]))
LANEWISE(int32x4_t, 4, vmaxq_s32, (int32x4_t a, int32x4_t b), a[i] > b[i] ? a[i] : b[i])
LANEWISE(int32x4_t, 4, vminq_s32, (int32x4_t a, int32x4_t b), a[i] < b[i] ? a[i] : b[i])
LANEWISE(uint8x16_t, 16, vmaxq_u8, (uint8x16_t a, uint8x16_t b), a[i] > b[i] ? a[i] : b[i])
LANEWISE(uint8x16_t, 16, vandq_u8, (uint8x16_t a, uint8x16_t b), a[i] & b[i])
LANEWISE(uint32x4_t, 4, vandq_u32, (uint32x4_t a, uint32x4_t b), a[i] & b[i])
LANEWISE(uint16x8_t, 8, vorrq_u16, (uint16x8_t a, uint16x8_t b), a[i] | b[i])
LANEWISE(uint32x4_t, 4, vorrq_u32, (uint32x4_t a, uint32x4_t b), a[i] | b[i])
LANEWISE(int8x16_t, 16, veorq_s8, (int8x16_t a, int8x16_t b), a[i] ^ b[i])
LANEWISE(uint16x8_t, 8, vshlq_n_u16, (uint16x8_t a, int b), (uint16_t)(a[i] << b))
LANEWISE(uint32x4_t, 4, vshlq_n_u32, (uint32x4_t a, int b), a[i] << b)
LANEWISE(int32x4_t, 4, vshlq_r_s32, (int32x4_t a, int32_t b),
         b < 0 ? a[i] >> -b : (int32_t)((uint32_t)a[i] << b))

/* The lanes at even or odd places, wider; and back into them. */
LANEWISE(int32x4_t, 4, vmovlbq_s16, (int16x8_t a), a[2 * i])
LANEWISE(int32x4_t, 4, vmovltq_s16, (int16x8_t a), a[2 * i + 1])
LANEWISE(int16x8_t, 8, vmovnbq_s32, (int16x8_t a, int32x4_t b), i % 2 ? a[i] : (int16_t)b[i / 2])
LANEWISE(int16x8_t, 8, vmovntq_s32, (int16x8_t a, int32x4_t b), i % 2 ? (int16_t)b[i / 2] : a[i])

SUM(16, vmladavaq_s8, (int32_t sum, int8x16_t a, int8x16_t b), a[i] * b[i])
SUM(8, vmladavaq_s16, (int32_t sum, int16x8_t a, int16x8_t b), a[i] * b[i])
SUM(16, vaddvaq_s8, (int32_t sum, int8x16_t a), a[i])

static inline uint8_t vmaxvq_u8(uint8_t most, uint8x16_t a)
{
    for (int i = 0; i < 16; i++) {
        most = a[i] > most ? a[i] : most;
    }
    return most;
}

static inline uint16_t vmaxvq_u16(uint16_t most, uint16x8_t a)
{
    for (int i = 0; i < 8; i++) {
        most = a[i] > most ? a[i] : most;
    }
    return most;
}

static inline mve_pred16_t vcmphiq_u32(uint32x4_t a, uint32x4_t b)
{
    unsigned p = 0;
    for (int i = 0; i < 4; i++) {
        p |= a[i] > b[i] ? 15u << 4 * i : 0u;
    }
    return (mve_pred16_t)p;
}
