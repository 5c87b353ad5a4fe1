/* Helium: the same integers in vectors. What is left behind the last whole vector is loaded under a predicate, so that
   nothing beyond it is read. */
#if LANES

/* Pixels that lie side by side, for some channels: what their windows meet, and how sums become codes. A window meets
   `rows`, each of which has so many `vectors` and a `rest` of codes (of a depthwise layer: taps). */
struct lanes {
    const uint8_t *x, *residual;
    const int8_t *w;
    uint8_t *y;
    int32_t pixels, x_step, y_step;
    int32_t rows, vectors, rest, x_skip, w_skip; /* skips lead from the last whole vector and block to the next row */
    int32_t taps, row_step, tap_step, w_row, w_tap;
    int32_t count; /* of the channels, if fewer than a tile are left */
    int32_t bias[8], multiplier[8], other[8];
    int32_t lift, other_lift, other_zero, low, high;
    int32_t shift; /* to the left, so that it is negative */
    int32_t upper; /* words of the offset; of the lower one only the highest bit may be set */
    uint32_t lower;
};

static inline void set_lanes(
    struct lanes *restrict run, const struct rescale *restrict rescale, const struct term *restrict sum,
    const struct term *restrict other, int32_t other_zero)
{
    run->upper = (int32_t)(rescale->offset >> 32);
    run->lower = (uint32_t)rescale->offset;
    run->shift = -rescale->shift;
    run->low = rescale->low;
    run->high = rescale->high;
    run->lift = sum->lift;
    run->other_lift = other->lift;
    run->other_zero = other_zero;
}

static inline void set_channel(
    struct lanes *restrict run, int32_t place, int32_t channel, const int32_t *restrict bias,
    const struct term *restrict sum, const struct term *restrict other)
{
    run->bias[place] = bias[channel];
    run->multiplier[place] = sum->multiplier[channel * sum->step];
    run->other[place] = other->multiplier ? other->multiplier[channel * other->step] : 0;
}

/* Upper words of (value << lift) * multiplier + offset in 64 bits, for the channels at `place` and behind it. The
   instruction that rounds adds the highest bit of the lower word. */
static WITHIN int32x4_t upper_words(const struct lanes *r, int32_t place, int32x4_t sums)
{
    const int32x4_t value = vshlq_r_s32(sums, r->lift), multiplier = vldrwq_s32(r->multiplier + place);
    return vaddq_n_s32(r->lower ? vrmulhq_s32(value, multiplier) : vmulhq_s32(value, multiplier), r->upper);
}

/* The same with a residual, of which codes stand `beside`: the lower words add up and carry over. */
static WITHIN int32x4_t upper_words_of_two(const struct lanes *r, int32_t place, int32x4_t sums, int32x4_t beside)
{
    const int32x4_t value = vshlq_r_s32(sums, r->lift), multiplier = vldrwq_s32(r->multiplier + place);
    const int32x4_t added = vshlq_r_s32(vsubq_n_s32(beside, r->other_zero), r->other_lift);
    const int32x4_t other = vldrwq_s32(r->other + place);
    const uint32x4_t lower = vreinterpretq_u32_s32(vmulq_s32(value, multiplier));
    const uint32x4_t both = vaddq_u32(lower, vreinterpretq_u32_s32(vmulq_s32(added, other)));
    int32x4_t upper = vaddq_n_s32(vaddq_s32(vmulhq_s32(value, multiplier), vmulhq_s32(added, other)), r->upper);
    upper = vaddq_m_n_s32(upper, upper, 1, vcmphiq_u32(lower, both));
    return vaddq_m_n_s32(upper, upper, 1, vcmphiq_u32(both, vaddq_n_u32(both, r->lower)));
}

/* As of `to_code`. */
static WITHIN int32x4_t clipped(const struct lanes *r, int32x4_t upper)
{
    const int32x4_t codes = vshlq_r_s32(upper, r->shift);
    return vminq_s32(vmaxq_s32(codes, vdupq_n_s32(r->low)), vdupq_n_s32(r->high));
}

static WITHIN void put_quad(const struct lanes *r, int32_t pixel, int32x4_t sums)
{
    const mve_pred16_t four = vctp32q((uint32_t)r->count);
    int32x4_t upper;
    if (r->residual) {
        const uint32x4_t beside = vldrbq_z_u32(r->residual + pixel * r->y_step, four);
        upper = upper_words_of_two(r, 0, sums, vreinterpretq_s32_u32(beside));
    } else {
        upper = upper_words(r, 0, sums);
    }
    vstrbq_p_u32(r->y + pixel * r->y_step, vreinterpretq_u32_s32(clipped(r, upper)), four);
}

/* Of eight channels the first, third, fifth and seventh, then the others; `bias` and what lies beside it likewise. */
static WITHIN void put_eight(const struct lanes *r, int32_t pixel, int32x4_t even, int32x4_t odd)
{
    const mve_pred16_t eight = vctp16q((uint32_t)r->count);
    int16x8_t codes = vdupq_n_s16(0);
    if (r->residual) {
        codes = vreinterpretq_s16_u16(vldrbq_z_u16(r->residual + pixel * r->y_step, eight));
        even = upper_words_of_two(r, 0, even, vmovlbq_s16(codes));
        odd = upper_words_of_two(r, 4, odd, vmovltq_s16(codes));
    } else {
        even = upper_words(r, 0, even);
        odd = upper_words(r, 4, odd);
    }
    codes = vmovntq_s32(vmovnbq_s32(codes, clipped(r, even)), clipped(r, odd));
    vstrbq_p_u16(r->y + pixel * r->y_step, vreinterpretq_u16_s16(codes), eight);
}

static WITHIN int8x16_t signed_codes(uint8x16_t codes, int8x16_t flip, int flipped)
{
    return flipped ? veorq_s8(vreinterpretq_s8_u8(codes), flip) : vreinterpretq_s8_u8(codes);
}

/* 16 codes times the weights of four channels, of which 16 lie side by side, channel by channel. */
static WITHIN void add_block(int8x16_t codes, const int8_t *w, int32_t sums[4])
{
    sums[3] = vmladavaq_s8(sums[3], codes, vldrbq_s8(w + 48));
    sums[2] = vmladavaq_s8(sums[2], codes, vldrbq_s8(w + 32));
    sums[1] = vmladavaq_s8(sums[1], codes, vldrbq_s8(w + 16));
    sums[0] = vmladavaq_s8(sums[0], codes, vldrbq_s8(w));
}

/* Windows for four channels, 16 products of bytes at a time. Products are of signed bytes: codes below 128 are taken as
   they are, others less 128 (`flipped`), which the bias makes good. */
static WITHIN void run_rows(const struct lanes *r, int flipped)
{
    const int8x16_t flip = vdupq_n_s8(-128);
    for (int32_t pixel = 0; pixel < r->pixels; pixel++) {
        const uint8_t *x = r->x + pixel * r->x_step;
        const int8_t *w = r->w;
        int32_t sums[4] = {r->bias[0], r->bias[1], r->bias[2], r->bias[3]};
        for (int32_t rows = r->rows; rows > 0;) {
            for (int32_t vectors = r->vectors; vectors > 0; vectors--) {
                add_block(signed_codes(vldrbq_u8(x), flip, flipped), w, sums);
                x += 16;
                w += 64;
            }
            if (r->rest) { /* weights that stand for none are 0 */
                add_block(signed_codes(vldrbq_z_u8(x, vctp8q((uint32_t)r->rest)), flip, flipped), w, sums);
                w += 64;
            }
            if (--rows > 0) { /* so that no pointer leaves its array */
                x += r->x_skip;
                w += r->w_skip;
            }
        }
        put_quad(r, pixel, (int32x4_t){sums[0], sums[1], sums[2], sums[3]});
    }
}

static APART void run_signed(const struct lanes *r)
{
    run_rows(r, 0);
}

static APART void run_flipped(const struct lanes *r)
{
    run_rows(r, 1);
}

/* Bytes of a row of weights of four channels in blocks. */
static WITHIN int32_t row_of_blocks(int32_t length)
{
    return 4 * ((length + 15) & ~(int32_t)15);
}

/* Rows of a window: the codes of each, and from one to the next how far codes and bytes of blocks lie apart. */
static inline void set_rows(struct lanes *restrict run, int32_t rows, int32_t length, int32_t step, int32_t blocks)
{
    run->rows = length > 0 ? rows : 0;
    run->vectors = length >> 4;
    run->rest = length & 15;
    run->x_skip = step - 16 * run->vectors;
    run->w_skip = blocks - row_of_blocks(length);
}

/* Weights of a channel into its place in blocks; returns their sum. */
static inline int32_t put_blocks(const int8_t *w, int32_t rows, int32_t length, int8_t *block)
{
    int32_t sum = 0;
    for (; rows > 0; rows--) {
        for (int32_t i = 0; i < length; i += 16) {
            const int8x16_t weights = vldrbq_z_s8(w + i, vctp8q((uint32_t)(length - i)));
            sum = vaddvaq_s8(sum, weights);
            vstrbq_s8(block + 4 * i, weights);
        }
        w += length;
        block += rows > 1 ? row_of_blocks(length) : 0;
    }
    return sum;
}

static APART int32_t largest_code(const uint8_t *x, int32_t count)
{
    uint8x16_t largest = vdupq_n_u8(0);
    for (int32_t i = 0; i < count; i += 16) {
        largest = vmaxq_u8(largest, vldrbq_z_u8(x + i, vctp8q((uint32_t)(count - i))));
    }
    return vmaxvq_u8(0, largest);
}

/* Windows of a depthwise layer for up to eight channels: of one pixel, or of two for each weight that is loaded.
   `short_sums`: 16 bits hold them; otherwise each product is widened. */
static WITHIN void run_taps_of(const struct lanes *r, int two, int short_sums)
{
    const mve_pred16_t eight = vctp16q((uint32_t)r->count);
    for (int32_t pixel = 0; pixel < r->pixels; pixel += 1 + two) {
        int16x8_t sums = vdupq_n_s16(0), sums2 = vdupq_n_s16(0);
        int32x4_t even = vldrwq_s32(r->bias), odd = vldrwq_s32(r->bias + 4), even2 = even, odd2 = odd;
        for (int32_t row = 0; row < r->rows; row++) {
            for (int32_t tap = 0; tap < r->taps; tap++) {
                const uint8_t *x = r->x + pixel * r->x_step + row * r->row_step + tap * r->tap_step;
                const int8_t *const at = r->w + row * r->w_row + tap * r->w_tap;
                const int16x8_t w = two ? vldrbq_s16(at) : vldrbq_z_s16(at, eight);
                const uint16x8_t codes = two ? vldrbq_u16(x) : vldrbq_z_u16(x, eight);
                const int16x8_t product = vmulq_s16(vreinterpretq_s16_u16(codes), w);
                if (short_sums) {
                    sums = vaddq_s16(sums, product);
                } else {
                    even = vaddq_s32(even, vmovlbq_s16(product));
                    odd = vaddq_s32(odd, vmovltq_s16(product));
                }
                if (two) {
                    const int16x8_t product2 = vmulq_s16(vreinterpretq_s16_u16(vldrbq_u16(x + r->x_step)), w);
                    if (short_sums) {
                        sums2 = vaddq_s16(sums2, product2);
                    } else {
                        even2 = vaddq_s32(even2, vmovlbq_s16(product2));
                        odd2 = vaddq_s32(odd2, vmovltq_s16(product2));
                    }
                }
            }
        }
        if (short_sums) {
            even = vaddq_s32(even, vmovlbq_s16(sums));
            odd = vaddq_s32(odd, vmovltq_s16(sums));
            even2 = vaddq_s32(even2, vmovlbq_s16(sums2));
            odd2 = vaddq_s32(odd2, vmovltq_s16(sums2));
        }
        put_eight(r, pixel, even, odd);
        if (two) {
            put_eight(r, pixel + 1, even2, odd2);
        }
    }
}

static APART void run_taps_one(const struct lanes *r)
{
    run_taps_of(r, 0, 0);
}

static APART void run_taps_two(const struct lanes *r)
{
    run_taps_of(r, 1, 0);
}

static APART void run_short_taps_one(const struct lanes *r)
{
    run_taps_of(r, 0, 1);
}

static APART void run_short_taps_two(const struct lanes *r)
{
    run_taps_of(r, 1, 1);
}

#endif
