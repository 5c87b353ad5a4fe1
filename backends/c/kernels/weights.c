/* Weights of a layer. Eight bits lie as they are. Fewer lie packed, lowest bits first, and each channel begins with a
   byte of its own: 2 bits four to a byte, 3 bits eight to three bytes, 4 bits two to a byte. A packed code is the
   weight plus offset[channel]. */
struct weights {
    const void *codes;
    const int16_t *offset;
    int32_t bits;
    int32_t size; /* weights of one output channel */
};

#if LANES

/* 16 weights of 4 bits from 8 bytes, or of 2 bits from 4 bytes, each in the byte where it is to be. */
static WITHIN uint8x16_t spread(const uint8_t *packed, int32_t bits, int32_t bytes)
{
    if (bits == 4) {
        const uint16x8_t codes = vldrbq_z_u16(packed, vctp16q((uint32_t)bytes));
        return vandq_u8(vreinterpretq_u8_u16(vorrq_u16(codes, vshlq_n_u16(codes, 4))), vdupq_n_u8(15));
    }
    uint32x4_t codes = vldrbq_z_u32(packed, vctp32q((uint32_t)bytes));
    codes = vandq_u32(vorrq_u32(codes, vshlq_n_u32(codes, 12)), vdupq_n_u32(0x000f000fu));
    return vandq_u8(vreinterpretq_u8_u32(vorrq_u32(codes, vshlq_n_u32(codes, 6))), vdupq_n_u8(3));
}

/* `unpack` of 2 or 4 bits, side by side. */
static APART void unpack_lanes(const struct weights *w, int32_t channel, int8_t *restrict out)
{
    const int32_t bytes = (w->size * w->bits + 7) / 8, each = 2 * w->bits;
    const uint8_t *restrict packed = (const uint8_t *)w->codes + channel * bytes;
    for (int32_t i = 0, at = 0; i < w->size; i += 16, at += each) {
        const int8x16_t codes = vreinterpretq_s8_u8(spread(packed + at, w->bits, bytes - at));
        vstrbq_p_s8(out + i, vsubq_n_s8(codes, (int8_t)w->offset[channel]), vctp8q((uint32_t)(w->size - i)));
    }
}

#endif

/* The weights of one output channel, `step` bytes apart. */
static inline void unpack(const struct weights *w, int32_t channel, int8_t *restrict out, int32_t step)
{
#if LANES
    if (step == 1 && (w->bits == 2 || w->bits == 4)) {
        unpack_lanes(w, channel, out);
        return;
    }
#endif
    const uint8_t *restrict packed = (const uint8_t *)w->codes + channel * ((w->size * w->bits + 7) / 8);
    const int32_t offset = w->offset[channel];
    const uint32_t mask = (1u << w->bits) - 1u;
    uint32_t buffer = 0;
    int32_t held = 0;
    for (int32_t i = 0; i < w->size; i++) {
        if (held < w->bits) {
            buffer |= (uint32_t)*packed++ << held;
            held += 8;
        }
        out[i * step] = (int8_t)((int32_t)(buffer & mask) - offset);
        buffer >>= w->bits;
        held -= w->bits;
    }
}
