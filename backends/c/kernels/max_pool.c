/* Maximum pool. Outside of the map the code is 0, which no maximum can see. */
struct max_pool {
    struct shape in, out;
    struct window window;
};

static void max_pool(const struct max_pool *p, const uint8_t *restrict x, uint8_t *restrict y)
{
    const struct window *w = &p->window;
    for (int32_t row = 0; row < p->out.height; row++) {
        const struct span rows = rows_at(w, row, p->in.height);
        for (int32_t column = 0; column < p->out.width; column++, y += p->out.channels) {
            const struct span columns = columns_at(w, column, p->in.width);
            memset(y, 0, (size_t)p->out.channels);
            for (int32_t r = rows.first; r < rows.end; r++) {
                const int32_t line = (rows.start + r * w->row_dilation) * p->in.width + columns.start;
                for (int32_t s = columns.first; s < columns.end; s++) {
                    const uint8_t *codes = x + (line + s * w->column_dilation) * p->in.channels;
                    for (int32_t c = 0; c < p->out.channels; c++) {
                        y[c] = codes[c] > y[c] ? codes[c] : y[c];
                    }
                }
            }
        }
    }
}
