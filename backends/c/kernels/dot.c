/* The inner loop: four output channels at once, so that each code is loaded once and used four times. The weights of
   neighbouring channels are `step` apart. */
static inline void dot4_plain(
    const uint8_t *restrict x, const int8_t *restrict w, int32_t step, int32_t length, int32_t sums[4])
{
    int32_t s0 = sums[0], s1 = sums[1], s2 = sums[2], s3 = sums[3];
    for (int32_t i = 0; i < length; i++) {
        const int32_t code = x[i];
        s0 += code * w[i];
        s1 += code * w[i + step];
        s2 += code * w[i + 2 * step];
        s3 += code * w[i + 3 * step];
    }
    sums[0] = s0;
    sums[1] = s1;
    sums[2] = s2;
    sums[3] = s3;
}

#if LANES

/* Eight codes and weights at a time, as numbers of 16 bits, of which all products are exact. */
static WITHIN int32_t add_eight(int32_t sum, uint16x8_t codes, const int8_t *w, mve_pred16_t eight)
{
    return vmladavaq_s16(sum, vreinterpretq_s16_u16(codes), vldrbq_z_s16(w, eight));
}

static inline int32_t dot4_words(
    const uint8_t *restrict x, const int8_t *restrict w, int32_t step, int32_t length, int32_t sums[4])
{
    int32_t s0 = sums[0], s1 = sums[1], s2 = sums[2], s3 = sums[3];
    for (int32_t i = 0; i < length; i += 8) {
        const mve_pred16_t eight = vctp16q((uint32_t)(length - i));
        const uint16x8_t codes = vldrbq_z_u16(x + i, eight);
        s0 = add_eight(s0, codes, w + i, eight);
        s1 = add_eight(s1, codes, w + i + step, eight);
        s2 = add_eight(s2, codes, w + i + 2 * step, eight);
        s3 = add_eight(s3, codes, w + i + 3 * step, eight);
    }
    sums[0] = s0;
    sums[1] = s1;
    sums[2] = s2;
    sums[3] = s3;
    return length;
}

#elif PAIRS

/* Four weights times four codes, of which `even` holds the first and third, `odd` the second and fourth. */
static WITHIN int32_t add_products(const int8_t *w, uint16x2_t even, uint16x2_t odd, int32_t sum)
{
    const uint32_t weights = word_at(w);
    sum = __smlad((int16x2_t)even, __sxtb16((int8x4_t)weights), sum);
    return __smlad((int16x2_t)odd, __sxtb16((int8x4_t)(weights >> 8)), sum);
}

/* Adds what fills whole words; returns how many codes these are. */
static inline int32_t dot4_words(
    const uint8_t *restrict x, const int8_t *restrict w, int32_t step, int32_t length, int32_t sums[4])
{
    const int32_t whole = length & ~(int32_t)3;
    const uint8_t *const end = x + whole;
    const int8_t *restrict w2 = w + 2 * step; /* two pointers and one step: with the sums they fill the registers */
    int32_t s0 = sums[0], s1 = sums[1], s2 = sums[2], s3 = sums[3];
    for (; x < end; x += 4, w += 4, w2 += 4) {
        const uint32_t codes = word_at(x);
        const uint16x2_t even = __uxtb16(codes), odd = __uxtb16(codes >> 8);
        s0 = add_products(w, even, odd, s0);
        s1 = add_products(w + step, even, odd, s1);
        s2 = add_products(w2, even, odd, s2);
        s3 = add_products(w2 + step, even, odd, s3);
    }
    sums[0] = s0;
    sums[1] = s1;
    sums[2] = s2;
    sums[3] = s3;
    return whole;
}

#else

/* A multiple of 16: compilers that vectorise only where nothing is left over (gcc -O2) do so here. */
static inline int32_t dot4_words(
    const uint8_t *restrict x, const int8_t *restrict w, int32_t step, int32_t length, int32_t sums[4])
{
    const int32_t whole = length & ~(int32_t)15;
    dot4_plain(x, w, step, whole, sums);
    return whole;
}

#endif

static inline void dot4(
    const uint8_t *restrict x, const int8_t *restrict w, int32_t step, int32_t length, int32_t sums[4])
{
    const int32_t done = dot4_words(x, w, step, length, sums);
    dot4_plain(x + done, w + done, step, length - done, sums);
}

static inline int32_t dot1(const uint8_t *restrict x, const int8_t *restrict w, int32_t length)
{
    int32_t sum = 0;
    for (int32_t i = 0; i < length; i++) {
        sum += (int32_t)x[i] * w[i];
    }
    return sum;
}
