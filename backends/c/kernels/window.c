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
