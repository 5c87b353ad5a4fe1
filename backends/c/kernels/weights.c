/* Weights of a layer. Eight bits lie as they are. Fewer lie packed, lowest bits first, and each channel begins with a
   byte of its own: 2 bits four to a byte, 3 bits eight to three bytes, 4 bits two to a byte. A packed code is the
   weight plus offset[channel]. */
struct weights {
    const void *codes;
    const int16_t *offset;
    int32_t bits;
    int32_t size; /* weights of one output channel */
};

/* The weights of one output channel, `step` bytes apart. */
static inline void unpack(const struct weights *w, int32_t channel, int8_t *restrict out, int32_t step)
{
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
