/* Geometry of a convolution or pool. */
struct window {
    int32_t rows, columns;
    int32_t row_stride, column_stride;
    int32_t top, left; /* padding; below and to the right it follows from the output's shape */
    int32_t row_dilation, column_dilation;
};

/* Where a window meets the map along one axis: tap i lies at start + i * dilation, and taps first ... end - 1 are
   inside. No kernel pads: windows are cut at the border once, outside of the loops over channels. */
struct span {
    int32_t start, first, end;
};

static inline struct span span_at(int32_t start, int32_t taps, int32_t dilation, int32_t size)
{
    struct span span = {start, 0, taps};
    if (start < 0) {
        span.first = (dilation - 1 - start) / dilation;
    }
    if (start + (taps - 1) * dilation >= size) {
        span.end = start >= size ? 0 : (size - 1 - start) / dilation + 1;
    }
    if (span.first > span.end) {
        span.first = span.end;
    }
    return span;
}

static inline struct span rows_at(const struct window *w, int32_t y, int32_t height)
{
    return span_at(y * w->row_stride - w->top, w->rows, w->row_dilation, height);
}

static inline struct span columns_at(const struct window *w, int32_t x, int32_t width)
{
    return span_at(x * w->column_stride - w->left, w->columns, w->column_dilation, width);
}

static inline int is_inside(struct span span, int32_t tap)
{
    return tap >= span.first && tap < span.end;
}

static inline int covers(struct span span, int32_t taps)
{
    return span.end - span.first == taps;
}

/* The first of `width` windows of a row that are cut on the right. */
static inline int32_t whole_until(const struct window *w, int32_t in_width, int32_t width)
{
    const int32_t last = in_width + w->left - (w->columns - 1) * w->column_dilation - 1;
    const int32_t cut = last / w->column_stride + 1;
    return cut < width ? cut : width;
}

#if LANES

static WITHIN void fill_codes(uint8_t *to, int32_t code, int32_t count)
{
    for (int32_t i = 0; i < count; i += 16) {
        vstrbq_p_u8(to + i, vdupq_n_u8((uint8_t)code), vctp8q((uint32_t)(count - i)));
    }
}

/* Rows of codes, which lie so many bytes apart. */
static WITHIN void copy_rows(
    const uint8_t *from, int32_t from_step, uint8_t *to, int32_t to_step, int32_t rows, int32_t count)
{
    for (int32_t i = 0; i < count; i += 16) {
        const mve_pred16_t left = vctp8q((uint32_t)(count - i));
        for (int32_t r = 0; r < rows; r++) {
            vstrbq_p_u8(to + i + r * to_step, vldrbq_z_u8(from + i + r * from_step, left), left);
        }
    }
}

#elif PAIRS

/* Without `restrict`, which would make a call of `memcpy` of it: it copies a few codes. */
static APART void copy_codes(const uint8_t *from, uint8_t *to, int32_t count)
{
    for (; count >= 4; count -= 4, from += 4, to += 4) {
        const uint32_t word = word_at(from);
        memcpy(to, &word, sizeof word);
    }
    for (; count > 0; count--) {
        *to++ = *from++;
    }
}

#endif
