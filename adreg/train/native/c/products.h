/* Rows times matrices. A product is a sum of terms, each of other rows and another matrix; a tile of 32 outputs is packed once
 * and meets all rows, twelve at a time, their sums in registers. A number depends on its own row alone, in one order. */

#define TERMS 4

typedef enum { TILES, ROWS, COLUMNS } Lie;     /* how a matrix lies: packed; outputs along its rows; outputs along its columns */

typedef struct {
    const unit *x;                             /* rows, `stride` units apart */
    const void *w;
    long stride, pitch, units, depth;          /* elements between rows of w; of the sum; COLUMNS: rows that w has */
    Lie lie;
} Term;

typedef enum { HALVES, ADDED, FLOATS, ACROSS } Form;      /* what is made of a sum: a bfloat16, that plus another, a float, a float transposed */

typedef struct {
    Term term[TERMS];
    int terms;
    Form form;
    long rows, columns, width;                 /* outputs that exist; elements between rows of `out` */
    long chunk;                                /* rows of a task; 0: all */
    void *out;
    const half *bias, *added;                  /* or NULL; as `out` */
    float scale;                               /* ACROSS */
} Product;

INLINE long tiles_of(const Product *p) { return (p->columns + TILE - 1) / TILE; }
INLINE long chunks_of(const Product *p) { return p->chunk ? (p->rows + p->chunk - 1) / p->chunk : 1; }
INLINE long tasks_of(const Product *p) { return tiles_of(p) * chunks_of(p); }

INLINE void block(int rows, const Product *p, const unit *const *tile, long row, float (*out)[TILE])
{
    v16 sum[BLOCK][2];
#pragma GCC unroll 12
    for (int m = 0; m < rows; m++)
        sum[m][0] = sum[m][1] = (v16){};
    for (int t = 0; t < p->terms; t++) {
        long stride = p->term[t].stride, units = p->term[t].units;
        const unit *x = p->term[t].x + row * stride, *w = tile[t];
        for (long u = 0; u < units; u++, w += TILE, x++) {
            u16 a = load_units(w), b = load_units(w + LANES);
#pragma GCC unroll 12
            for (int m = 0; m < rows; m++) {
                u16 s = same(x[m * stride]);
                sum[m][0] = dot(sum[m][0], a, s, 1);
                sum[m][1] = dot(sum[m][1], b, s, 1);
            }
        }
    }
#pragma GCC unroll 12
    for (int m = 0; m < rows; m++) {
        store(out[m], sum[m][0]);
        store(out[m] + LANES, sum[m][1]);
    }
}

#define SUMS(n) case n: block(n, p, tile, row, out); return;

static void sums_of(int rows, const Product *p, const unit *const *tile, long row, float (*out)[TILE])
{
    switch (rows) { SUMS(1) SUMS(2) SUMS(3) SUMS(4) SUMS(5) SUMS(6) SUMS(7) SUMS(8) SUMS(9) SUMS(10) SUMS(11) SUMS(12) }
}

static void finish(const Product *p, long row, long column, const float *sums)
{
    long place = row * p->width + column;
    if (p->form == ACROSS) {
        for (long i = 0; i < TILE && column + i < p->columns; i++)
            ((float *)p->out)[(column + i) * p->width + row] = p->scale * sums[i];
        return;
    }
    for (int i = 0; i < TILE && column + i < p->columns; i += LANES) {
        v16 y = load(sums + i);
        long left = p->columns - column - i;
        if (p->form == FLOATS) {
            store((float *)p->out + place + i, y);      /* columns are a multiple of 16 here */
            continue;
        }
        if (p->bias)
            y += widened(p->bias + column + i);
        if (p->form == ADDED)
            y += widened(p->added + place + i);
        if (left >= LANES) {
            narrowed((half *)p->out + place + i, y);
        } else {
            half part[LANES];
            narrowed(part, y);
            memcpy((half *)p->out + place + i, part, sizeof(half) * left);
        }
    }
}

/* Ask for the part from `from` to `to`, of 1, of the matrices of the tile at `column`: packing would wait for memory. */
static void fetch(const Product *p, long column, float from, float to)
{
    for (int t = 0; t < p->terms && column < p->columns; t++) {
        const Term *term = &p->term[t];
        const half *w = (const half *)term->w + (term->lie == ROWS ? column * term->pitch : column);
        if (term->lie == ROWS)
            for (long at = (long)(from * term->units * 2) * TILE; at < (long)(to * term->units * 2) * TILE; at += TILE)
                __builtin_prefetch(w + at, 0, 2);
        if (term->lie == COLUMNS)
            for (long row = (long)(from * term->depth); row < (long)(to * term->depth); row++)
                __builtin_prefetch(w + row * term->pitch, 0, 2);
    }
}

/* A task of the product: one tile and all rows of a chunk. `room` holds the tiles of all terms. */
static void multiply(const Product *p, long task, unit *room)
{
    long column = task % tiles_of(p) * TILE, from = task / tiles_of(p) * p->chunk, to = p->chunk && from + p->chunk < p->rows ? from + p->chunk : p->rows;
    const unit *tile[TERMS];
    _Alignas(64) float sums[BLOCK][TILE];
    for (int t = 0; t < p->terms; t++) {
        const Term *term = &p->term[t];
        tile[t] = term->lie == TILES ? (const unit *)term->w + column * term->units : room;
        if (term->lie == ROWS)
            pack_rows((const half *)term->w + column * term->pitch, term->pitch, term->units, room);
        if (term->lie == COLUMNS)
            pack_columns((const half *)term->w + column, term->pitch, term->depth, room);
        if (term->lie != TILES)
            room += term->units * TILE;
    }
    float share = 1.0f / (to - from);
    for (long row = from; row < to; row += BLOCK) {
        int count = to - row < BLOCK ? to - row : BLOCK;
        if (!p->chunk)
            fetch(p, column + TILE, (row - from) * share, fminf(1, (row - from + BLOCK) * share));
        sums_of(count, p, tile, row, sums);
        for (int m = 0; m < count; m++)
            finish(p, row + m, column, sums[m]);
    }
}

static void multiply_each(Thread *me, const Product *products, int count, unit *room)        /* one phase */
{
    long tasks = 0;
    for (int i = 0; i < count; i++)
        tasks += tasks_of(&products[i]);
    EACH(task, tasks) {
        const Product *p = products;
        for (; task >= tasks_of(p); p++)
            task -= tasks_of(p);
        multiply(p, task, room);
    }
}
