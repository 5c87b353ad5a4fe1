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

#if LANES

/* The codes of a window side by side; outside of the map lies the zero point. */
static inline void copy_window(
    const struct conv *p, const uint8_t *x, struct span rows, struct span columns, uint8_t *patch)
{
    const struct window *window = &p->window;
    const int gapless = p->group_in == p->in.channels && window->column_dilation == 1;
    const int32_t taps = columns.end - columns.first, run = gapless ? taps : 1, count = rows.end - rows.first;
    const int32_t row_step = window->row_dilation * p->in.width * p->in.channels, line = window->columns * p->group_in;
    const int32_t first = rows.start + rows.first * window->row_dilation;
    if (count < window->rows || taps < window->columns) {
        fill_codes(patch, p->zero_point, p->weights.size);
    }
    for (int32_t s = columns.first; s < columns.end && count > 0; s += run) {
        const int32_t column = columns.start + s * window->column_dilation;
        copy_rows(x + (first * p->in.width + column) * p->in.channels, row_step,
                  patch + rows.first * line + s * p->group_in, line, count, run * p->group_in);
    }
}

/* Up to `most` windows of a row, one behind the other; returns how many. */
static APART int32_t copy_windows(
    const struct conv *p, const uint8_t *x, int32_t row, int32_t column, int32_t most, uint8_t *patch)
{
    const struct span rows = rows_at(&p->window, row, p->in.height);
    const int32_t left = p->out.width - column, count = left < most ? left : most;
    for (int32_t i = 0; i < count; i++) {
        copy_window(p, x, rows, columns_at(&p->window, column + i, p->in.width), patch + i * p->weights.size);
    }
    return count;
}

/* The weights of a tile in blocks; `flipped` is made good in the bias. `spare` has room for those of a channel. */
static inline void set_tile(
    const struct conv *p, int32_t channel, int32_t rows, int flipped, int8_t *blocks, int8_t *spare, struct lanes *run)
{
    const int32_t left = p->group_out - channel % p->group_out, size = p->weights.size;
    run->count = left < 4 ? left : 4;
    for (int32_t j = 0; j < run->count; j++) {
        const int8_t *w = spare;
        if (!PACKED_WEIGHTS || p->weights.bits == 8) {
            w = (const int8_t *)p->weights.codes + (channel + j) * size;
        } else {
            unpack(&p->weights, channel + j, spare, 1);
        }
        set_channel(run, j, channel + j, p->bias, &p->sum, &p->residual);
        run->bias[j] += (flipped ? 128 : 0) * put_blocks(w, rows, size / rows, blocks + 16 * j);
    }
}

/* `conv` of a map. Windows are multiplied as they lie. Those that have gaps or short rows are copied first, and those
   that are cut, unless what lies outside is 0; a code of 0 is not, once 128 is subtracted. */
static APART void conv_map(
    const struct conv *restrict p, const uint8_t *x, const uint8_t *residual, uint8_t *y, int8_t *scratch)
{
    const struct window *const window = &p->window;
    const int32_t size = p->weights.size, line = window->columns * p->group_in;
    const int32_t row_step = window->row_dilation * p->in.width * p->in.channels;
    const int gapless = window->columns == 1 || (p->group_in == p->in.channels && window->column_dilation == 1);
    const int lies = gapless && (line >= 16 || window->rows == 1);
    const int flat = window->rows * window->columns * window->row_stride * window->column_stride == 1 &&
                     p->in.width == p->out.width && p->in.height == p->out.height;
    const int32_t height = flat ? 1 : p->out.height, width = flat ? p->out.height * p->out.width : p->out.width;
    const int32_t whole_columns = flat ? width : whole_until(window, p->in.width, width);
    const int flipped = p->zero_point > 127 || largest_code(x, p->in.height * p->in.width * p->in.channels) > 127;
    const int cuts = !flipped && p->zero_point == 0; /* what lies outside is 0 */
    const int32_t rows_of_blocks = lies ? window->rows : 1, blocks_row = row_of_blocks(size / rows_of_blocks);
    const int32_t taken = size > 16 ? rows_of_blocks * blocks_row : 0;
    int8_t few[64] = {0}; /* where the scratch has no room for four blocks */
    int8_t *const blocks = size > 16 ? scratch : few, *const spare = scratch + taken;
    const int32_t patches = lies ? 1 : (8 * ((size + 3) & ~(int32_t)3) - taken) / size;
    struct lanes run = {0};
    set_lanes(&run, &p->rescale, &p->sum, &p->residual, p->residual_zero);
    run.y_step = p->out.channels;
    for (int32_t channel = 0; channel < p->out.channels; channel += run.count) {
        const uint8_t *group = x + channel / p->group_out * p->group_in;
        int32_t at = channel;
        set_tile(p, channel, rows_of_blocks, flipped, blocks, spare, &run);
        for (int32_t row = 0; row < height; row++) {
            const struct span rows = rows_at(window, row, p->in.height);
            for (int32_t column = 0; column < width; column += run.pixels) {
                const struct span columns = columns_at(window, column, p->in.width);
                const int whole = covers(columns, window->columns);
                if (lies && (cuts || covers(rows, window->rows)) && (whole || (cuts && p->group_in % 16 == 0))) {
                    const int32_t length = (columns.end - columns.first) * p->group_in;
                    set_rows(&run, rows.end - rows.first, length, row_step, blocks_row);
                    if (run.rows > 0) {
                        run.x = group + ((rows.start + rows.first * window->row_dilation) * p->in.width +
                                         columns.start + columns.first) * p->in.channels;
                        run.w = blocks + rows.first * blocks_row + 4 * columns.first * p->group_in;
                    }
                    run.x_step = window->column_stride * p->in.channels;
                    run.pixels = whole ? whole_columns - column : 1;
                } else {
                    run.pixels = copy_windows(p, group, row, column, patches, (uint8_t *)spare);
                    set_rows(&run, rows_of_blocks, size / rows_of_blocks, size / rows_of_blocks, blocks_row);
                    run.x = (const uint8_t *)spare;
                    run.w = blocks;
                    run.x_step = size;
                }
                run.residual = residual ? residual + at : 0;
                run.y = y + at;
                if (flipped) {
                    run_flipped(&run);
                } else {
                    run_signed(&run);
                }
                at += run.pixels * run.y_step;
            }
        }
    }
}

#elif PAIRS

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
    const struct conv *restrict p, const uint8_t *x, const uint8_t *residual, uint8_t *y, int8_t *scratch)
{
    int32_t *const pairs = (int32_t *)(void *)scratch;
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
                    run.rows = taps > 0 ? rows.end - rows.first : 0;
                    if (run.rows > 0) {
                        run.x = group + (rows.start * p->in.width + columns.start + columns.first) * p->in.channels +
                                rows.first * row_step;
                        run.pairs = pairs + each * (rows.first * line + columns.first * p->group_in);
                    }
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
#if LANES || PAIRS
    if (p->out.height * p->out.width > 1) {
        conv_map(p, x, residual, y, scratch);
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
