/* Rows of a table of codes, one for each integer; one outside of the table counts as the nearest row. */
static void gather(
    const uint8_t *table, int32_t rows, int32_t length, const int32_t *restrict numbers, int32_t count,
    uint8_t *restrict y)
{
    for (int32_t i = 0; i < count; i++, y += length) {
        const int32_t row = numbers[i] < 0 ? 0 : numbers[i] >= rows ? rows - 1 : numbers[i];
        memcpy(y, table + row * length, (size_t)length);
    }
}
