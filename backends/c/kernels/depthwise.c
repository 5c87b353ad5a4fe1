/* Convolution of every channel with a filter of its own. Four channels that lie side by side are computed together.
   Weights of 8 bits lie as [rows][columns][K], so that those of four channels lie side by side too; packed ones as
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

/* Filters of channels side by side: weight of channel j at tap t is w[t * step + j]. */
struct filters {
    const int8_t *w;
    int32_t step, channel, count;
};

/* Those of `most` channels, or of fewer that are left. */
static inline struct filters filters_at(const struct depthwise *p, int32_t channel, int32_t most, int8_t *scratch)
{
    const int32_t left = p->out.channels - channel;
    struct filters f = {scratch, most, channel, left < most ? left : most};
    if (!PACKED_WEIGHTS || p->weights.bits == 8) {
        f.w = (const int8_t *)p->weights.codes + channel;
        f.step = p->out.channels;
        return f;
    }
    for (int32_t j = 0; j < f.count; j++) {
        unpack(&p->weights, channel + j, scratch + j, f.step);
    }
    return f;
}

/* Sums of one window, four channels at once. */
static inline void depthwise4(
    const struct depthwise *p, const uint8_t *restrict x, struct span rows, struct span columns,
    const struct filters *f, int32_t sums[4])
{
    const struct window *window = &p->window;
    int32_t s0 = sums[0], s1 = sums[1], s2 = sums[2], s3 = sums[3];
    for (int32_t r = rows.first; r < rows.end && columns.first < columns.end; r++) {
        const int32_t line = (rows.start + r * window->row_dilation) * p->in.width + columns.start;
        const uint8_t *codes = x + (line + columns.first * window->column_dilation) * p->in.channels;
        const int8_t *restrict w = f->w + (r * window->columns + columns.first) * f->step;
        for (int32_t s = columns.first;;) {
            s0 += (int32_t)codes[0] * w[0];
            s1 += (int32_t)codes[1] * w[1];
            s2 += (int32_t)codes[2] * w[2];
            s3 += (int32_t)codes[3] * w[3];
            if (++s == columns.end) {
                break;
            }
            codes += window->column_dilation * p->in.channels;
            w += f->step;
        }
    }
    sums[0] = s0;
    sums[1] = s1;
    sums[2] = s2;
    sums[3] = s3;
}

/* The same of one channel. */
static inline int32_t depthwise1(
    const struct depthwise *p, const uint8_t *restrict x, struct span rows, struct span columns,
    const struct filters *f, int32_t j)
{
    const struct window *window = &p->window;
    int32_t sum = 0;
    for (int32_t r = rows.first; r < rows.end; r++) {
        const int32_t line = (rows.start + r * window->row_dilation) * p->in.width + columns.start;
        for (int32_t s = columns.first; s < columns.end; s++) {
            const int32_t code = x[(line + s * window->column_dilation) * p->in.channels + j];
            sum += code * f->w[(r * window->columns + s) * f->step + j];
        }
    }
    return sum;
}

/* Sum of a channel's weights at taps outside of the map. As of `conv`: the bias has subtracted the zero point there. */
static inline int32_t weights_outside(
    const struct depthwise *p, struct span rows, struct span columns, const struct filters *f, int32_t j)
{
    int32_t outside = 0;
    for (int32_t r = 0; r < p->window.rows; r++) {
        for (int32_t s = 0; s < p->window.columns; s++) {
            if (!is_inside(rows, r) || !is_inside(columns, s)) {
                outside += f->w[(r * p->window.columns + s) * f->step + j];
            }
        }
    }
    return outside;
}

static inline void depthwise_sums(
    const struct depthwise *p, const uint8_t *restrict x, struct span rows, struct span columns,
    const struct filters *f, int32_t sums[4])
{
    const int cut = !covers(rows, p->window.rows) || !covers(columns, p->window.columns);
    for (int32_t j = 0; j < f->count; j++) {
        sums[j] = p->bias[f->channel + j];
        if (p->zero_point != 0 && cut) {
            sums[j] += p->zero_point * weights_outside(p, rows, columns, f, j);
        }
    }
    if (f->count == 4) {
        depthwise4(p, x, rows, columns, f, sums);
        return;
    }
    for (int32_t j = 0; j < f->count; j++) {
        sums[j] += depthwise1(p, x, rows, columns, f, j);
    }
}

#if PAIRS

/* Of each tap the weights of channels 0 and 2, then 1 and 3. */
static inline void pair_filters(const struct filters *f, int32_t taps, int32_t *pairs)
{
    for (int32_t t = taps - 1; t >= 0; t--) { /* from the end: unpacked weights lie in the same memory */
        set_pairs(word_at(f->w + t * f->step), pairs + 2 * t);
    }
}

/* The innermost loops, by themselves: they need all registers. */
static APART void run_taps(const struct run *restrict run)
{
    const uint32_t mask = run->even;
    const uint8_t *first = run->x, *residual = run->residual;
    uint8_t *y = run->y;
    for (int32_t pixel = run->pixels;;) {
        const uint8_t *restrict x = first;
        const int32_t *restrict pairs = run->pairs;
        int32_t s0 = run->bias[0], s1 = run->bias[1], s2 = run->bias[2], s3 = run->bias[3];
        for (int32_t row = run->rows; row > 0;) {
            const int32_t step = run->tap_step;
            for (const int32_t *const end = pairs + 2 * run->length;;) {
                const uint32_t codes = word_at(x), even = codes & mask, odd = codes >> 8 & mask;
                s0 = __smlabb((int32_t)even, pairs[0], s0);
                s1 = __smlabb((int32_t)odd, pairs[1], s1);
                s2 = __smlatt((int32_t)even, pairs[0], s2);
                s3 = __smlatt((int32_t)odd, pairs[1], s3);
                pairs += 2;
                if (pairs == end) {
                    break;
                }
                x += step;
            }
            if (--row > 0) {
                x += run->row_step;
                pairs += run->pairs_step;
            }
        }
        put_four(run, s0, s1, s2, s3, residual, y);
        if (--pixel == 0) {
            break;
        }
        first += run->x_step;
        y += run->y_step;
        residual = residual ? residual + run->y_step : 0;
    }
}

/* As of `weights_outside`, times the zero point. */
static APART void add_outside_taps(
    const struct depthwise *p, struct span rows, struct span columns, const int32_t *restrict pairs, int32_t sums[4])
{
    for (int32_t r = 0; r < p->window.rows; r++) {
        for (int32_t s = 0; s < p->window.columns; s++, pairs += 2) {
            for (int32_t j = 0; j < 2 && !(is_inside(rows, r) && is_inside(columns, s)); j++) {
                sums[j] = __smlabb(p->zero_point, pairs[j], sums[j]);
                sums[j + 2] = __smlabt(p->zero_point, pairs[j], sums[j + 2]);
            }
        }
    }
}

/* `depthwise` of four channels, whose weights are in pairs. */
static APART void depthwise_four(
    const struct depthwise *restrict p, const uint8_t *x, const uint8_t *residual, uint8_t *y, int32_t channel,
    const int32_t *pairs)
{
    const struct window *const window = &p->window;
    const int32_t row_step = window->row_dilation * p->in.width * p->in.channels;
    const int32_t whole_columns = whole_until(window, p->in.width, p->out.width);
    int32_t at = channel;
    struct run run = {0};
    set_rescale(&run, &p->rescale, &p->sum, &p->residual, p->residual_zero);
    run.x_step = window->column_stride * p->in.channels;
    run.y_step = p->out.channels;
    run.tap_step = window->column_dilation * p->in.channels;
    set_channels(&run, channel, 4, p->bias, &p->sum, &p->residual);
    for (int32_t row = 0; row < p->out.height; row++) {
        const struct span rows = rows_at(window, row, p->in.height);
        for (int32_t column = 0; column < p->out.width; column += run.pixels) {
            const struct span columns = columns_at(window, column, p->in.width);
            const int whole = covers(columns, window->columns);
            run.length = columns.end - columns.first;
            run.rows = run.length > 0 ? rows.end - rows.first : 0;
            if (run.rows > 0) {
                run.x = x + channel + (rows.start * p->in.width + columns.start) * p->in.channels +
                        rows.first * row_step + columns.first * run.tap_step;
                run.pairs = pairs + 2 * (rows.first * window->columns + columns.first);
            }
            run.row_step = row_step - (run.length - 1) * run.tap_step;
            run.pairs_step = 2 * (window->columns - run.length);
            run.pixels = whole ? whole_columns - column : 1;
            if (p->zero_point != 0) {
                set_channels(&run, channel, 4, p->bias, &p->sum, &p->residual);
                add_outside_taps(p, rows, columns, pairs, run.bias);
            }
            run.residual = residual ? residual + at : 0;
            run.y = y + at;
            run_taps(&run);
            at += run.pixels * run.y_step;
        }
    }
}

#endif

#if LANES

/* As of `weights_outside`, times the zero point. */
static APART void add_outside_taps(
    const struct depthwise *p, struct span rows, struct span columns, const struct filters *f, struct lanes *run)
{
    const mve_pred16_t eight = vctp16q((uint32_t)f->count);
    int32x4_t even = vdupq_n_s32(0), odd = even;
    for (int32_t r = 0; r < p->window.rows; r++) {
        for (int32_t s = 0; s < p->window.columns; s++) {
            if (!is_inside(rows, r) || !is_inside(columns, s)) {
                const int16x8_t w = vldrbq_z_s16(f->w + (r * p->window.columns + s) * f->step, eight);
                even = vaddq_s32(even, vmovlbq_s16(w));
                odd = vaddq_s32(odd, vmovltq_s16(w));
            }
        }
    }
    vstrwq_s32(run->bias, vmlaq_n_s32(vldrwq_s32(run->bias), even, p->zero_point));
    vstrwq_s32(run->bias + 4, vmlaq_n_s32(vldrwq_s32(run->bias + 4), odd, p->zero_point));
}

/* Whether 16 bits hold every sum of codes up to `largest`. */
static inline int are_short(const struct filters *f, int32_t taps, int32_t largest)
{
    const mve_pred16_t eight = vctp16q((uint32_t)f->count);
    uint16x8_t total = vdupq_n_u16(0);
    for (int32_t t = 0; t < taps; t++) {
        total = vaddq_u16(total, vreinterpretq_u16_s16(vabsq_s16(vldrbq_z_s16(f->w + t * f->step, eight))));
    }
    return taps < 512 && (uint32_t)largest * vmaxvq_u16(0, total) < 32768u;
}

static inline void run_lanes(struct lanes *run, int short_sums)
{
    const int32_t pixels = run->pixels, pairs = run->count == 8 ? pixels & ~(int32_t)1 : 0;
    if (pairs > 0) {
        run->pixels = pairs;
        if (short_sums) {
            run_short_taps_two(run);
        } else {
            run_taps_two(run);
        }
    }
    if (pixels > pairs) {
        run->pixels = pixels - pairs;
        run->x += run->rows > 0 ? pairs * run->x_step : 0;
        run->y += pairs * run->y_step;
        run->residual = run->residual ? run->residual + pairs * run->y_step : 0;
        if (short_sums) {
            run_short_taps_one(run);
        } else {
            run_taps_one(run);
        }
    }
}

/* `depthwise` of up to eight channels. */
static APART void depthwise_eight(
    const struct depthwise *restrict p, const uint8_t *x, const uint8_t *residual, uint8_t *y,
    const struct filters *f, int32_t largest)
{
    const struct window *const window = &p->window;
    const int32_t whole_columns = whole_until(window, p->in.width, p->out.width);
    const int short_sums = are_short(f, p->weights.size, largest);
    int32_t at = f->channel;
    struct lanes run = {0};
    set_lanes(&run, &p->rescale, &p->sum, &p->residual, p->residual_zero);
    run.x_step = window->column_stride * p->in.channels;
    run.y_step = p->out.channels;
    run.tap_step = window->column_dilation * p->in.channels;
    run.row_step = window->row_dilation * p->in.width * p->in.channels;
    run.w_tap = f->step;
    run.w_row = window->columns * f->step;
    run.count = f->count;
    for (int32_t row = 0; row < p->out.height; row++) {
        const struct span rows = rows_at(window, row, p->in.height);
        for (int32_t column = 0, pixels; column < p->out.width; column += pixels) {
            const struct span columns = columns_at(window, column, p->in.width);
            const int whole = covers(columns, window->columns);
            pixels = whole ? whole_columns - column : 1;
            run.pixels = pixels;
            run.taps = columns.end - columns.first;
            run.rows = run.taps > 0 ? rows.end - rows.first : 0;
            if (run.rows > 0) {
                run.x = x + f->channel + ((rows.start + rows.first * window->row_dilation) * p->in.width +
                                          columns.start + columns.first * window->column_dilation) * p->in.channels;
                run.w = f->w + (rows.first * window->columns + columns.first) * f->step;
            }
            if (at == f->channel || p->zero_point != 0) {
                for (int32_t j = 0; j < f->count; j++) {
                    set_channel(&run, j / 2 + j % 2 * 4, f->channel + j, p->bias, &p->sum, &p->residual);
                }
            }
            if (p->zero_point != 0 && !(whole && covers(rows, window->rows))) {
                add_outside_taps(p, rows, columns, f, &run);
            }
            run.residual = residual ? residual + at : 0;
            run.y = y + at;
            run_lanes(&run, short_sums);
            at += pixels * run.y_step;
        }
    }
}

#endif

/* `y` may be `residual`, and not `x`. `scratch` holds the unpacked weights of four channels. */
static void depthwise(
    const struct depthwise *p, const uint8_t *restrict x, const uint8_t *residual, uint8_t *y, int8_t *scratch)
{
#if LANES
    const int32_t largest = largest_code(x, p->in.height * p->in.width * p->in.channels);
    for (int32_t channel = 0; channel < p->out.channels; channel += 8) {
        const struct filters f = filters_at(p, channel, 8, scratch);
        depthwise_eight(p, x, residual, y, &f, largest);
    }
#else
    for (int32_t channel = 0; channel < p->out.channels; channel += 4) {
        const struct filters f = filters_at(p, channel, 4, scratch);
        int32_t at = channel;
#if PAIRS
        if (f.count == 4) {
            int32_t *const pairs = (int32_t *)(void *)scratch;
            pair_filters(&f, p->weights.size, pairs);
            depthwise_four(p, x, residual, y, channel, pairs);
            continue;
        }
#endif
        for (int32_t row = 0; row < p->out.height; row++) {
            const struct span rows = rows_at(&p->window, row, p->in.height);
            for (int32_t column = 0; column < p->out.width; column++, at += p->out.channels) {
                const struct span columns = columns_at(&p->window, column, p->in.width);
                int32_t sums[4];
                depthwise_sums(p, x + channel, rows, columns, &f, sums);
                for (int32_t j = 0; j < f.count; j++) {
                    int64_t sum = p->rescale.offset + scaled(&p->sum, sums[j], channel + j);
                    if (residual) {
                        sum += scaled(&p->residual, residual[at + j] - p->residual_zero, channel + j);
                    }
                    y[at + j] = to_code(&p->rescale, sum);
                }
            }
        }
    }
#endif
}
