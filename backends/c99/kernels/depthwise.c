/* Convolution of every channel with a filter of its own. Channels that lie side by side are computed together, four
   at once. Weights of 8 bits lie as [rows][columns][K], so that those of a tile lie side by side too; packed ones as
   [K][rows][columns], and are unpacked into that order. */
struct depthwise {
    struct shape in, out;
    struct window window;
    int32_t zero_point; /* of the input */
    struct weights weights;
    const int32_t *bias; /* bias[k] - zero_point * sum of the weights of k */
    struct rescale rescale;
    struct term sum, residual;
    int32_t residual_zero;
};

/* One map of `count` channels; always inlined, so that a full tile has constant bounds and sums in registers. */
static inline void depthwise_tile(
    const struct depthwise *p, const uint8_t *restrict x, const uint8_t *residual, uint8_t *y, const int8_t *restrict w,
    int32_t step, int32_t channel, int32_t count)
{
    const struct window *window = &p->window;
    int32_t at = channel;
    for (int32_t row = 0; row < p->out.height; row++) {
        const struct span rows = rows_at(window, row, p->in.height);
        for (int32_t column = 0; column < p->out.width; column++, at += p->out.channels) {
            const struct span columns = columns_at(window, column, p->in.width);
            int32_t sums[4] = {0, 0, 0, 0};
            for (int32_t r = rows.first; r < rows.end; r++) {
                const int32_t line = (rows.start + r * window->row_dilation) * p->in.width + columns.start;
                for (int32_t s = columns.first; s < columns.end; s++) {
                    const uint8_t *codes = x + (line + s * window->column_dilation) * p->in.channels + channel;
                    const int8_t *tap = w + (r * window->columns + s) * step;
                    for (int32_t j = 0; j < count; j++) {
                        sums[j] += (int32_t)codes[j] * tap[j];
                    }
                }
            }
            if (p->zero_point != 0 && !(covers(rows, window->rows) && covers(columns, window->columns))) {
                /* As of `conv`: the bias has subtracted the zero point for the taps outside as well. */
                for (int32_t r = 0; r < window->rows; r++) {
                    for (int32_t s = 0; s < window->columns; s++) {
                        for (int32_t j = 0; j < count && !(is_inside(rows, r) && is_inside(columns, s)); j++) {
                            sums[j] += p->zero_point * w[(r * window->columns + s) * step + j];
                        }
                    }
                }
            }
            for (int32_t j = 0; j < count; j++) {
                const int32_t k = channel + j;
                int64_t sum = p->rescale.offset + scaled(&p->sum, sums[j] + p->bias[k], k);
                if (residual) {
                    sum += scaled(&p->residual, residual[at + j] - p->residual_zero, k);
                }
                y[at + j] = to_code(&p->rescale, sum);
            }
        }
    }
}

/* `y` may be `residual`, and not `x`. `scratch` holds four channels of unpacked weights. */
static void depthwise(
    const struct depthwise *p, const uint8_t *restrict x, const uint8_t *residual, uint8_t *y, int8_t *scratch)
{
    for (int32_t channel = 0; channel < p->out.channels; channel += 4) {
        const int32_t left = p->out.channels - channel;
        const int8_t *w = (const int8_t *)p->weights.codes + channel;
        int32_t step = p->out.channels;
        if (PACKED_WEIGHTS && p->weights.bits < 8) {
            w = scratch;
            step = 4;
            for (int32_t j = 0; j < 4 && j < left; j++) {
                unpack(&p->weights, channel + j, scratch + j, step);
            }
        }
        if (left >= 4) {
            depthwise_tile(p, x, residual, y, w, step, channel, 4);
        } else {
            depthwise_tile(p, x, residual, y, w, step, channel, left);
        }
    }
}
