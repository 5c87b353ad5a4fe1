/* Average pool. What a window is divided by may depend on where it lies: `choice` picks the rescaling of each pixel of
   the output; 0 where there is one for all. */
struct average_pool {
    struct shape in, out;
    struct window window;
    int32_t zero_point;
    const struct average_scale *scales;
    const uint8_t *choice;
};

struct average_scale {
    struct rescale rescale;
    struct term term;
};

static void average_pool(const struct average_pool *p, const uint8_t *restrict x, uint8_t *restrict y)
{
    const struct window *w = &p->window;
    for (int32_t row = 0, pixel = 0; row < p->out.height; row++) {
        const struct span rows = rows_at(w, row, p->in.height);
        for (int32_t column = 0; column < p->out.width; column++, pixel++, y += p->out.channels) {
            const struct span columns = columns_at(w, column, p->in.width);
            const int32_t taps = (rows.end - rows.first) * (columns.end - columns.first);
            const struct average_scale *scale = p->scales + (p->choice ? p->choice[pixel] : 0);
            for (int32_t c = 0; c < p->out.channels; c++) {
                int32_t total = -p->zero_point * taps;
                for (int32_t r = rows.first; r < rows.end; r++) {
                    const int32_t line = (rows.start + r * w->row_dilation) * p->in.width + columns.start;
                    for (int32_t s = columns.first; s < columns.end; s++) {
                        total += x[(line + s * w->column_dilation) * p->in.channels + c];
                    }
                }
                y[c] = to_code(&scale->rescale, scale->rescale.offset + scaled(&scale->term, total, c));
            }
        }
    }
}
