/* Weights of four output channels in pairs of 16 bits, in the order in which they are multiplied: for each four codes
   in a row, channel by channel, the weights of the first and third, then those of the second and fourth. They are made
   once for a whole map. What lies beyond the last channel or code counts nowhere. */
#if PAIRS

static WITHIN void set_pairs(uint32_t four, int32_t *pairs)
{
    pairs[0] = __sxtb16((int8x4_t)four);
    pairs[1] = __sxtb16((int8x4_t)(four >> 8));
}

static inline void expand_bytes(const int8_t *restrict codes, int32_t size, int32_t *restrict pairs)
{
    for (int32_t i = 0; i < size; i += 4) {
        uint32_t word = 0;
        if (size - i >= 4) {
            word = word_at(codes + i);
        } else {
            memcpy(&word, codes + i, (size_t)(size - i));
        }
        set_pairs(word, pairs + 2 * i);
    }
}

/* Where codes and weights have four bits at most, a half of a word takes the packed weights of two channels. The first
   is in the lower 12 bits, which sums of 16 codes, at most 16 * 15 * 15, do not leave. The second has 8 less, to be
   signed. This and the offsets are made good by the sum of the codes. */
enum place { WHOLE, LOWER, UPPER };

/* Two of four packed weights at a time. */
static WITHIN void put_pair(
    uint32_t packed, int32_t bits, uint32_t mask, uint32_t offsets, enum place place, int32_t *pair)
{
    const uint32_t codes = (packed & mask) | (packed >> 2 * bits & mask) << 16;
    if (place == WHOLE) {
        *pair = (int32_t)__ssub16((int16x2_t)codes, (int16x2_t)offsets);
    } else if (place == LOWER) {
        *pair = (int32_t)codes;
    } else {
        *pair |= (int32_t)((codes ^ 0x00080008u) << 12);
    }
}

static inline void expand_packed(
    const struct weights *w, int32_t channel, enum place place, int32_t step, int32_t *restrict pairs)
{
    const int32_t bits = w->bits, bytes = (w->size * bits + 7) / 8;
    const uint8_t *restrict packed = (const uint8_t *)w->codes + channel * bytes;
    const uint8_t *const end = packed + bytes;
    const uint32_t mask = (1u << bits) - 1u, offset = (uint16_t)w->offset[channel], offsets = offset << 16 | offset;
    uint32_t buffer = 0;
    int32_t held = 0;
    for (int32_t i = 0; i < w->size; i += 4) {
        int32_t *const at = pairs + i / 4 * step;
        for (; held < 4 * bits && packed < end; held += 8) {
            buffer |= (uint32_t)*packed++ << held;
        }
        put_pair(buffer, bits, mask, offsets, place, at);
        put_pair(buffer >> bits, bits, mask, offsets, place, at + 1);
        buffer >>= 4 * bits;
        held -= 4 * bits;
    }
}

static inline void expand(
    const struct weights *w, int32_t channel, int32_t count, int narrow, int32_t *restrict pairs)
{
    for (int32_t j = 0; j < count; j++) {
        if (PACKED_WEIGHTS && narrow) {
            expand_packed(w, channel + j, j % 2 == 0 ? LOWER : UPPER, 4, pairs + j / 2 * 2);
        } else if (!PACKED_WEIGHTS || w->bits == 8) {
            expand_bytes((const int8_t *)w->codes + (channel + j) * w->size, w->size, pairs + 2 * j);
        } else {
            expand_packed(w, channel + j, WHOLE, 8, pairs + 2 * j);
        }
    }
}

/* Pixels that lie side by side, for four channels: what their windows meet, and how sums become codes. A window meets
   `rows` of `length` codes each, a multiple of four (of a depthwise layer: taps), and steps lead from row to row. */
struct run {
    const uint8_t *x, *residual;
    const int32_t *pairs;
    uint8_t *y;
    int32_t pixels, x_step, y_step;
    int32_t rows, length, tap_step, row_step, pairs_step;
    int32_t count; /* of the channels, if fewer than four are left */
    int32_t bias[4], multiplier[4], other[4];
    int32_t for_each[4]; /* what the sum of the codes is multiplied by, where weights are without their offset */
    int32_t lift, other_lift, other_zero, shift;
    int64_t offset;
    uint32_t above, low; /* 255 - high, and low, in each byte */
    uint32_t even;       /* the first and third byte; a constant that compilers see would be masked in two steps */
};

static inline void set_rescale(
    struct run *restrict run, const struct rescale *restrict rescale, const struct term *restrict sum,
    const struct term *restrict other, int32_t other_zero)
{
    run->offset = rescale->offset;
    run->shift = rescale->shift;
    run->above = 0x01010101u * (uint32_t)(255 - rescale->high);
    run->low = 0x01010101u * (uint32_t)rescale->low;
    run->even = 0x00ff00ffu;
    run->lift = sum->lift;
    run->other_lift = other->lift;
    run->other_zero = other_zero;
}

static inline void set_channels(
    struct run *restrict run, int32_t channel, int32_t count, const int32_t *restrict bias,
    const struct term *restrict sum, const struct term *restrict other)
{
    run->count = count;
    for (int32_t j = 0; j < count; j++) {
        run->bias[j] = bias[channel + j];
        run->multiplier[j] = sum->multiplier[(channel + j) * sum->step];
        run->other[j] = other->multiplier ? other->multiplier[(channel + j) * other->step] : 0;
    }
}

static WITHIN int64_t term_of(int32_t value, int32_t lift, int32_t multiplier)
{
    return (int64_t)(int32_t)((uint32_t)value << lift) * multiplier;
}

/* A code between 0 and 255; as of `to_code`. */
static WITHIN uint32_t byte_of(const struct run *r, int64_t sum)
{
    return (uint32_t)__usat((int32_t)(sum >> 32) >> r->shift, 8);
}

static inline void put_four(
    const struct run *r, int32_t s0, int32_t s1, int32_t s2, int32_t s3, const uint8_t *residual, uint8_t *y)
{
    const int32_t lift = r->lift, beside = r->other_lift, zero = r->other_zero;
    int64_t t0 = r->offset + term_of(s0, lift, r->multiplier[0]), t1 = r->offset + term_of(s1, lift, r->multiplier[1]);
    int64_t t2 = r->offset + term_of(s2, lift, r->multiplier[2]), t3 = r->offset + term_of(s3, lift, r->multiplier[3]);
    if (residual) {
        uint32_t codes = 0;
        if (r->count == 4) {
            codes = word_at(residual);
        } else {
            memcpy(&codes, residual, (size_t)r->count);
        }
        t0 += term_of((int32_t)(codes & 255u) - zero, beside, r->other[0]);
        t1 += term_of((int32_t)(codes >> 8 & 255u) - zero, beside, r->other[1]);
        t2 += term_of((int32_t)(codes >> 16 & 255u) - zero, beside, r->other[2]);
        t3 += term_of((int32_t)(codes >> 24) - zero, beside, r->other[3]);
    }
    uint32_t word = byte_of(r, t0) | byte_of(r, t1) << 8 | byte_of(r, t2) << 16 | byte_of(r, t3) << 24;
    word = __uqadd8(word, r->above) - r->above; /* at most `high` */
    word = __uqsub8(word, r->low) + r->low;     /* at least `low` */
    if (r->count == 4) {
        memcpy(y, &word, sizeof word);
    } else {
        memcpy(y, &word, (size_t)r->count);
    }
}

/* Adds weights times codes, of which `even` holds the first and third, `odd` the second and fourth. */
static WITHIN int32_t add_pairs(const int32_t *restrict pairs, uint32_t even, uint32_t odd, int32_t sum)
{
    return __smlad((int16x2_t)odd, (int16x2_t)pairs[1], __smlad((int16x2_t)even, (int16x2_t)pairs[0], sum));
}

/* Four codes for four channels. */
static WITHIN void add_four(const uint8_t *x, const int32_t *restrict pairs, uint32_t mask, int32_t sums[4])
{
    const uint32_t codes = word_at(x), even = codes & mask, odd = codes >> 8 & mask;
    sums[0] = add_pairs(pairs, even, odd, sums[0]);
    sums[1] = add_pairs(pairs + 2, even, odd, sums[1]);
    sums[2] = add_pairs(pairs + 4, even, odd, sums[2]);
    sums[3] = add_pairs(pairs + 6, even, odd, sums[3]);
}

/* The innermost loops, by themselves: they need all registers. No pointer leaves its array. */
static APART void run_pairs(const struct run *restrict run)
{
    const uint32_t mask = run->even;
    const uint8_t *first = run->x, *residual = run->residual;
    uint8_t *y = run->y;
    for (int32_t pixel = run->pixels;;) {
        const uint8_t *restrict x = first;
        const int32_t *restrict pairs = run->pairs;
        int32_t sums[4] = {run->bias[0], run->bias[1], run->bias[2], run->bias[3]};
        for (int32_t row = run->rows; row > 0;) {
            const uint8_t *const last = x + run->length - 4;
            while (x < last) {
                add_four(x, pairs, mask, sums);
                add_four(x + 4, pairs + 8, mask, sums);
                x += 8;
                pairs += 16;
            }
            if (x == last) {
                add_four(x, pairs, mask, sums);
                x += 4;
                pairs += 8;
            }
            if (--row > 0) {
                x += run->row_step;
                pairs += run->pairs_step;
            }
        }
        put_four(run, sums[0], sums[1], sums[2], sums[3], residual, y);
        if (--pixel == 0) {
            break;
        }
        first += run->x_step;
        y += run->y_step;
        residual = residual ? residual + run->y_step : 0;
    }
}

/* Four codes and packed weights of two channels, twice; adds up the codes too. */
static WITHIN void add_narrow(
    const uint8_t *x, const int32_t *restrict pairs, uint32_t mask, int32_t both[2], uint32_t *total)
{
    const uint32_t codes = word_at(x), even = codes & mask, odd = codes >> 8 & mask;
    both[0] = add_pairs(pairs, even, odd, both[0]);
    both[1] = add_pairs(pairs + 2, even, odd, both[1]);
    *total = __usada8(codes, 0, *total);
}

static WITHIN void part(int32_t both, int32_t sums[2])
{
    sums[0] += both & 0xfff;
    sums[1] += both >> 12;
}

/* The bias may need all 32 bits, and what is added to it may leave them on the way. */
static WITHIN int32_t whole_sum(const struct run *run, int32_t j, int32_t sum, uint32_t total)
{
    return (int32_t)((uint32_t)(sum + run->for_each[j] * (int32_t)total) + (uint32_t)run->bias[j]);
}

/* `run_pairs` of codes below 16 and weights of 4 bits at most. */
static APART void run_narrow(const struct run *restrict run)
{
    const uint32_t mask = run->even;
    const uint8_t *first = run->x, *residual = run->residual;
    uint8_t *y = run->y;
    for (int32_t pixel = run->pixels;;) {
        const uint8_t *restrict x = first;
        const int32_t *restrict pairs = run->pairs;
        int32_t sums[4] = {0, 0, 0, 0};
        uint32_t total = 0;
        for (int32_t row = run->rows; row > 0;) {
            const uint8_t *const end = x + run->length;
            for (; end - x >= 16; x += 16, pairs += 16) {
                int32_t both[2] = {0, 0};
                add_narrow(x, pairs, mask, both, &total);
                add_narrow(x + 4, pairs + 4, mask, both, &total);
                add_narrow(x + 8, pairs + 8, mask, both, &total);
                add_narrow(x + 12, pairs + 12, mask, both, &total);
                part(both[0], sums);
                part(both[1], sums + 2);
            }
            if (x < end) {
                int32_t both[2] = {0, 0};
                for (; x < end; x += 4, pairs += 4) {
                    add_narrow(x, pairs, mask, both, &total);
                }
                part(both[0], sums);
                part(both[1], sums + 2);
            }
            if (--row > 0) {
                x += run->row_step;
                pairs += run->pairs_step;
            }
        }
        put_four(run, whole_sum(run, 0, sums[0], total), whole_sum(run, 1, sums[1], total),
                 whole_sum(run, 2, sums[2], total), whole_sum(run, 3, sums[3], total), residual, y);
        if (--pixel == 0) {
            break;
        }
        first += run->x_step;
        y += run->y_step;
        residual = residual ? residual + run->y_step : 0;
    }
}

static inline void set_offsets(struct run *restrict run, const struct weights *w, int32_t channel)
{
    for (int32_t j = 0; j < run->count; j++) {
        run->for_each[j] = (j % 2 == 0 ? 0 : 8) - w->offset[channel + j];
    }
}

/* Whether all codes are below 16. */
static inline int are_narrow(const uint8_t *x, int32_t count)
{
    uint32_t all = 0;
    for (; count >= 4; count -= 4, x += 4) {
        all |= word_at(x);
    }
    for (; count > 0; count--) {
        all |= *x++;
    }
    return (all & 0xf0f0f0f0u) == 0;
}

#endif
