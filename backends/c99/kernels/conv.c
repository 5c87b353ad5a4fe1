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

/* The weights of four output channels that are computed together; one that is not full repeats its last channel. */
struct tile {
    int32_t channel, count;
    const int8_t *w[4];
};

/* The inner loop. Four output channels at once: each code is loaded once and used four times. */
static inline void dot4(const uint8_t *restrict x, const struct tile *tile, int32_t at, int32_t length, int32_t sums[4])
{
    const int8_t *restrict w0 = tile->w[0] + at;
    const int8_t *restrict w1 = tile->w[1] + at;
    const int8_t *restrict w2 = tile->w[2] + at;
    const int8_t *restrict w3 = tile->w[3] + at;
    int32_t s0 = sums[0], s1 = sums[1], s2 = sums[2], s3 = sums[3];
    for (int32_t i = 0; i < length; i++) {
        const int32_t code = x[i];
        s0 += code * w0[i];
        s1 += code * w1[i];
        s2 += code * w2[i];
        s3 += code * w3[i];
    }
    sums[0] = s0;
    sums[1] = s1;
    sums[2] = s2;
    sums[3] = s3;
}

/* Outside of the map the input is its zero point. The bias holds -zero_point * (sum of all weights), so that codes are
   used as they are; a window that is cut adds zero_point * (sum of the weights outside). These are exactly the
   integers of a padded copy, which is never made. */
static inline void add_outside(
    const struct conv *p, struct span rows, struct span columns, const struct tile *tile, int32_t sums[4])
{
    for (int32_t j = 0; j < tile->count; j++) {
        const int8_t *restrict w = tile->w[j];
        int32_t outside = 0;
        for (int32_t r = 0; r < p->window.rows; r++) {
            for (int32_t s = 0; s < p->window.columns; s++, w += p->group_in) {
                for (int32_t i = 0; i < p->group_in && !(is_inside(rows, r) && is_inside(columns, s)); i++) {
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
    const struct window *w = &p->window;
    const int gapless = p->group_in == p->in.channels && w->column_dilation == 1;
    const int32_t run = gapless ? columns.end - columns.first : 1;
    for (int32_t j = 0; j < 4; j++) {
        sums[j] = p->bias[tile->channel + (j < tile->count ? j : 0)];
    }
    for (int32_t r = rows.first; r < rows.end; r++) {
        const int32_t row = (rows.start + r * w->row_dilation) * p->in.width + columns.start;
        for (int32_t s = columns.first; s < columns.end; s += run) {
            const uint8_t *codes = x + (row + s * w->column_dilation) * p->in.channels;
            dot4(codes, tile, (r * w->columns + s) * p->group_in, run * p->group_in, sums);
        }
    }
    if (p->zero_point != 0 && !(covers(rows, w->rows) && covers(columns, w->columns))) {
        add_outside(p, rows, columns, tile, sums);
    }
}

/* The next tile: it ends at the latest with the group of its first channel. */
static inline struct tile tile_at(const struct conv *p, int32_t channel, int8_t *scratch)
{
    const int32_t left = p->group_out - channel % p->group_out;
    struct tile tile = {channel, left < 4 ? left : 4, {0}};
    for (int32_t j = 0; j < 4; j++) {
        const int32_t own = j < tile.count ? j : tile.count - 1;
        if (PACKED_WEIGHTS && p->weights.bits < 8) {
            tile.w[j] = scratch + own * p->weights.size;
            if (own == j) {
                unpack(&p->weights, channel + j, scratch + j * p->weights.size, 1);
            }
        } else {
            tile.w[j] = (const int8_t *)p->weights.codes + (channel + own) * p->weights.size;
        }
    }
    return tile;
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
