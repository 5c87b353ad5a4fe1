/* Codes moved unchanged: slices, padding, shuffles. The zero point lies where an origin leads outside of the map and
   in channels that come from nowhere (-1). */
struct move {
    struct shape in, out;
    int32_t row_stride, column_stride;
    int32_t row_origin, column_origin;
    uint8_t zero_point;
    const int16_t *channels;
};

static void move(const struct move *p, const uint8_t *restrict x, uint8_t *restrict y)
{
    for (int32_t row = 0; row < p->out.height; row++) {
        const int32_t r = row * p->row_stride + p->row_origin;
        for (int32_t column = 0; column < p->out.width; column++, y += p->out.channels) {
            const int32_t s = column * p->column_stride + p->column_origin;
            const int inside = r >= 0 && r < p->in.height && s >= 0 && s < p->in.width;
            const uint8_t *codes = x + (inside ? (r * p->in.width + s) * p->in.channels : 0);
            for (int32_t c = 0; c < p->out.channels; c++) {
                const int32_t source = inside ? p->channels[c] : -1;
                y[c] = source < 0 ? p->zero_point : codes[source];
            }
        }
    }
}
