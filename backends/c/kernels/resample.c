/* A map of another size: weighted sums of rows and columns. What a sum is divided by may depend on the pixel: `choice`
   picks its rescaling; 0 where there is one for all. */
struct resample_scale {
    struct rescale rescale;
    struct term term;
};

struct resample {
    struct shape in, out;
    int32_t zero_point;
    const int32_t *first_rows, *row_weights, *first_columns, *column_weights;
    int32_t row_taps, column_taps;
    const struct resample_scale *scales;
    const uint8_t *choice;
};

static void resample(const struct resample *p, const uint8_t *restrict x, uint8_t *restrict y)
{
    for (int32_t row = 0, pixel = 0; row < p->out.height; row++) {
        for (int32_t column = 0; column < p->out.width; column++, pixel++, y += p->out.channels) {
            const struct resample_scale *scale = p->scales + (p->choice ? p->choice[pixel] : 0);
            for (int32_t c = 0; c < p->out.channels; c++) {
                int32_t total = 0;
                for (int32_t r = 0; r < p->row_taps; r++) {
                    const int32_t line = (p->first_rows[row] + r) * p->in.width + p->first_columns[column];
                    for (int32_t s = 0; s < p->column_taps; s++) {
                        total += p->row_weights[row * p->row_taps + r]
                                 * p->column_weights[column * p->column_taps + s]
                                 * (x[(line + s) * p->in.channels + c] - p->zero_point);
                    }
                }
                y[c] = to_code(&scale->rescale, scale->rescale.offset + scaled(&scale->term, total, c));
            }
        }
    }
}
