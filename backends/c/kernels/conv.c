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

#if PAIRS

/* The codes of a window side by side; outside of the map lies the zero point. */
static inline void copy_window(
    const struct conv *p, const uint8_t *x, struct span rows, struct span columns, int gapless, uint8_t *patch)
{
    const struct window *window = &p->window;
    const int32_t run = gapless ? columns.end - columns.first : 1;
    if (!(covers(rows, window->rows) && covers(columns, window->columns))) {
        memset(patch, p->zero_point, (size_t)p->weights.size);
    }
    for (int32_t r = rows.first; r < rows.end; r++) {
        const int32_t line = (rows.start + r * window->row_dilation) * p->in.width + columns.start;
        for (int32_t s = columns.first; s < columns.end; s += run) {
            const uint8_t *codes = x + (line + s * window->column_dilation) * p->in.channels;
            copy_codes(codes, patch + (r * window->columns + s) * p->group_in, run * p->group_in);
        }
    }
}

/* `conv` of a map, whose pixels share weights in pairs. Windows that are whole words, where they are not cut or what
   lies outside is 0, are multiplied as they lie; of others a copy is. */
static APART void conv_map(
    const struct conv *restrict p, const uint8_t *x, const uint8_t *residual, uint8_t *y, int32_t *pairs)
{
    const struct window *const window = &p->window;
    const int32_t size = (p->weights.size + 3) & ~(int32_t)3, line = window->columns * p->group_in;
    const int32_t row_step = window->row_dilation * p->in.width * p->in.channels;
    const int gapless = p->group_in == p->in.channels && window->column_dilation == 1, words = gapless && line % 4 == 0;
    const int cuts = words && p->group_in % 4 == 0 && p->zero_point == 0;
    const int flat = words && window->rows * window->columns * window->row_stride * window->column_stride == 1 &&
                     p->in.width == p->out.width && p->in.height == p->out.height;
    const int32_t height = flat ? 1 : p->out.height, width = flat ? p->out.height * p->out.width : p->out.width;
    const int32_t whole_columns = flat ? width : whole_until(window, p->in.width, width);
    const int narrow = PACKED_WEIGHTS && p->weights.bits <= 4 && p->zero_point < 16 &&
                       are_narrow(x, p->in.height * p->in.width * p->in.channels);
    const int32_t each = narrow ? 1 : 2; /* words of pairs for each code */
    uint8_t *const patch = (uint8_t *)(pairs + 2 * size);
    struct run run = {0};
    set_rescale(&run, &p->rescale, &p->sum, &p->residual, p->residual_zero);
    run.x_step = window->column_stride * p->in.channels;
    run.y_step = p->out.channels;
    if (!cuts) {
        memset(patch, 0, (size_t)size); /* what lies behind the last code stays 0 */
    }
    for (int32_t channel = 0; channel < p->out.channels; channel += run.count) {
        const int32_t left = p->group_out - channel % p->group_out;
        const uint8_t *group = x + channel / p->group_out * p->group_in;
        int32_t at = channel;
        set_channels(&run, channel, left < 4 ? left : 4, p->bias, &p->sum, &p->residual);
        expand(&p->weights, channel, run.count, narrow, pairs);
        if (narrow) {
            set_offsets(&run, &p->weights, channel);
        }
        for (int32_t row = 0; row < height; row++) {
            const struct span rows = rows_at(window, row, p->in.height);
            for (int32_t column = 0; column < width; column += run.pixels) {
                const struct span columns = columns_at(window, column, p->in.width);
                const int whole = covers(columns, window->columns);
                run.pixels = 1;
                if (cuts || (words && whole && covers(rows, window->rows))) {
                    const int32_t taps = columns.end - columns.first;
                    run.x = group + (rows.start * p->in.width + columns.start + columns.first) * p->in.channels +
                            rows.first * row_step;
                    run.pairs = pairs + each * (rows.first * line + columns.first * p->group_in);
                    run.rows = rows.end - rows.first;
                    run.length = taps * p->group_in;
                    run.row_step = row_step - run.length;
                    run.pairs_step = each * (line - run.length);
                    if (whole) {
                        run.pixels = whole_columns - column;
                    }
                } else {
                    copy_window(p, group, rows, columns, gapless, patch);
                    run.x = patch;
                    run.pairs = pairs;
                    run.rows = 1;
                    run.length = size;
                }
                run.residual = residual ? residual + at : 0;
                run.y = y + at;
                if (PACKED_WEIGHTS && narrow) {
                    run_narrow(&run);
                } else {
                    run_pairs(&run);
                }
                at += run.pixels * run.y_step;
            }
        }
    }
}

#endif

/* `y` may be `residual`: each code is read before it is written over. `scratch` holds four channels of unpacked
   weights. Channels are the outer loop, so that weights are read and unpacked once. */
static void conv(const struct conv *p, const uint8_t *restrict x, const uint8_t *residual, uint8_t *y, int8_t *scratch)
{
#if PAIRS
    if (p->out.height * p->out.width > 1) {
        conv_map(p, x, residual, y, (int32_t *)(void *)scratch);
        return;
    }
#endif
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
