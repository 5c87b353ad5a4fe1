/* Convolution, dense or grouped, and linear layer (1 x 1 on a 1 x 1 map). */
struct conv {
    struct shape in, out;
    struct window window;
    int32_t group_in, group_out; /* channels of one group: read, written */
    int32_t zero_point;          /* of the input */
    struct weights weights;      /* [K][rows][columns][group_in] */
    const int32_t *bias;         /* bias[k] - zero_point * sum of the weights of k */
    struct rescale rescale;
    struct term sum, residual;
    int32_t residual_zero;
};

/* Output channels that are computed together: four, or what is left of a group. */
struct tile {
    const int8_t *w; /* [count][size] */
    int32_t channel, count;
};

/* The next tile; packed weights are unpacked for it. */
static inline struct tile tile_at(const struct conv *p, int32_t channel, int8_t *scratch)
{
    const int32_t left = p->group_out - channel % p->group_out;
    struct tile tile = {scratch, channel, left < 4 ? left : 4};
    if (!PACKED_WEIGHTS || p->weights.bits == 8) {
        tile.w = (const int8_t *)p->weights.codes + channel * p->weights.size;
        return tile;
    }
    for (int32_t j = 0; j < tile.count; j++) {
        unpack(&p->weights, channel + j, scratch + j * p->weights.size, 1);
    }
    return tile;
}

/* Outside of the map the input is its zero point. The bias holds -zero_point * (sum of all weights), so that codes are
   used as they are; a window that is cut adds zero_point * (sum of the weights outside). These are exactly the
   integers of a padded copy, which is never made. */
static inline void add_outside(
    const struct conv *p, struct span rows, struct span columns, const struct tile *tile, int32_t sums[4])
{
    const int8_t *restrict w = tile->w;
    for (int32_t j = 0; j < tile->count; j++) {
        int32_t outside = 0;
        for (int32_t r = 0; r < p->window.rows; r++) {
            for (int32_t s = 0; s < p->window.columns; s++, w += p->group_in) {
                if (is_inside(rows, r) && is_inside(columns, s)) {
                    continue;
                }
                for (int32_t i = 0; i < p->group_in; i++) {
                    outside += w[i];
                }
            }
        }
        sums[j] += p->zero_point * outside;
    }
}

/* Sums of one window for the channels of a tile. Where neither groups nor dilation leave gaps, the codes of a row of
   the window lie side by side, as do its weights: one inner loop per row, over columns and channels. */
static inline void window_sums(
    const struct conv *p, const uint8_t *restrict x, struct span rows, struct span columns, const struct tile *tile,
    int32_t sums[4])
{
    const struct window *window = &p->window;
    const int gapless = p->group_in == p->in.channels && window->column_dilation == 1;
    const int32_t run = gapless ? columns.end - columns.first : 1;
    for (int32_t j = 0; j < tile->count; j++) {
        sums[j] = p->bias[tile->channel + j];
    }
    for (int32_t r = rows.first; r < rows.end; r++) {
        const int32_t line = (rows.start + r * window->row_dilation) * p->in.width + columns.start;
        for (int32_t s = columns.first; s < columns.end; s += run) {
            const uint8_t *codes = x + (line + s * window->column_dilation) * p->in.channels;
            const int8_t *w = tile->w + (r * window->columns + s) * p->group_in;
            if (tile->count == 4) {
                dot4(codes, w, p->weights.size, run * p->group_in, sums);
            } else {
                for (int32_t j = 0; j < tile->count; j++) {
                    sums[j] += dot1(codes, w + j * p->weights.size, run * p->group_in);
                }
            }
        }
    }
    if (p->zero_point != 0 && !(covers(rows, window->rows) && covers(columns, window->columns))) {
        add_outside(p, rows, columns, tile, sums);
    }
}

/* `y` may be `residual`: each code is read before it is written over. `scratch` holds four channels of unpacked
   weights. Channels are the outer loop, so that weights are read and unpacked once. */
static void conv(const struct conv *p, const uint8_t *restrict x, const uint8_t *residual, uint8_t *y, int8_t *scratch)
{
    for (int32_t channel = 0; channel < p->out.channels;) {
        const struct tile tile = tile_at(p, channel, scratch);
        const uint8_t *group = x + channel / p->group_out * p->group_in;
        int32_t at = channel;
        for (int32_t row = 0; row < p->out.height; row++) {
            const struct span rows = rows_at(&p->window, row, p->in.height);
            for (int32_t column = 0; column < p->out.width; column++, at += p->out.channels) {
                const struct span columns = columns_at(&p->window, column, p->in.width);
                int32_t sums[4];
                window_sums(p, group, rows, columns, &tile, sums);
                for (int32_t j = 0; j < tile.count; j++) {
                    int64_t sum = p->rescale.offset + scaled(&p->sum, sums[j], channel + j);
                    if (residual) {
                        sum += scaled(&p->residual, residual[at + j] - p->residual_zero, channel + j);
                    }
                    y[at + j] = to_code(&p->rescale, sum);
                }
            }
        }
        channel += tile.count;
    }
}
