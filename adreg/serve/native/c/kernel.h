/* The one kernel that multiplies matrices. LoRA's B lies in strips, and the parts of a fused matrix begin at strips. */

#define NEAR 32     /* units of a tile, see `fetch` */
#define FAR 64

/* Ask for what comes `NEAR` or `FAR` units behind `w`. With few rows the memory is the limit and the processor sees the
 * stream by itself; with many it computes too long to see it, and its first cache is too small to wait in. Measured. */
INLINE void fetch(const unit *w, int rows)
{
    if (rows < 5) {
        __builtin_prefetch(w + NEAR * TILE, 0, 3);
        __builtin_prefetch(w + NEAR * TILE + LANES, 0, 3);
    } else {
        __builtin_prefetch(w + FAR * TILE, 0, 2);
        __builtin_prefetch(w + FAR * TILE + LANES, 0, 2);
    }
}

/* `rows` rows of x times a tile. A sum runs through the units in order, whatever `rows` is. */
INLINE void block(int rows, int bf16, const unit *x, long stride, const unit *w, long units, float (*out)[TILE])
{
    v16 sum[12][2];
#pragma GCC unroll 12
    for (int m = 0; m < rows; m++)
        sum[m][0] = sum[m][1] = (v16){};
    for (long u = 0; u < units; u++, w += TILE, x++) {
        u16 a = load_units(w), b = load_units(w + LANES);
        fetch(w, rows);
#pragma GCC unroll 12
        for (int m = 0; m < rows; m++) {
            u16 s = same(x[m * stride]);
            sum[m][0] = dot(sum[m][0], a, s, bf16);
            sum[m][1] = dot(sum[m][1], b, s, bf16);
        }
    }
#pragma GCC unroll 12
    for (int m = 0; m < rows; m++) {
        store(out[m], sum[m][0]);
        store(out[m] + LANES, sum[m][1]);
    }
}

#define CASE(rows) \
    case rows: \
        if (bf16) block(rows, 1, x, stride, w, units, out); \
        else block(rows, 0, x, stride, w, units, out); \
        return;

static void product(int rows, int bf16, const unit *x, long stride, const unit *w, long units, float (*out)[TILE])
{
    switch (rows) { CASE(1) CASE(2) CASE(3) CASE(4) CASE(5) CASE(6) CASE(7) CASE(8) CASE(9) CASE(10) CASE(11) CASE(12) }
}
