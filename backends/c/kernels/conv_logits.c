/* A convolution or linear layer whose sums are the logits: one float multiplication each, the only ones of a run. */
static void conv_logits(
    const struct conv *p, const uint8_t *restrict x, const float *restrict scale, float *restrict y, int8_t *scratch)
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
                    y[at + j] = (float)sums[j] * scale[channel + j];
                }
            }
        }
        channel += tile.count;
    }
}
