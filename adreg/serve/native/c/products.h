/* Rows times matrices, and what adapters add to them: s = A x before, B s in the registers of the finished tile. */

#define CHUNK 96            /* rows that one task takes: their inputs stay in the second cache */
#define TOGETHER 4          /* rows of A whose sums run side by side: one alone would wait for each addition */

static void shrink(const Low *low, int bf16, const unit *x, long units, unit *s)   /* s = A x, as units */
{
    float sums[LANES];
    long width = padded(units, LANES);
    for (int from = 0; from < low->rank; from += LANES) {
        int count = low->rank - from < LANES ? low->rank - from : LANES;
        memset(sums, 0, sizeof sums);
        for (int r = 0; r < count; r += TOGETHER) {
            const unit *a[TOGETHER];
            v16 sum[TOGETHER] = {};
            for (int i = 0; i < TOGETHER; i++)
                a[i] = low->a + (from + (r + i < count ? r + i : r)) * width;
            for (long u = 0; u < width; u += LANES) {
                u16 part = load_units(x + u);
                for (int i = 0; i < TOGETHER; i++) {
                    __builtin_prefetch(a[i] + u + TOGETHER * width, 0, 2);
                    sum[i] = dot(sum[i], load_units(a[i] + u), part, bf16);
                }
            }
            for (int i = 0; i < TOGETHER && r + i < count; i++)
                sums[r + i] = across(sum[i]);
        }
        narrow(s, from, load(sums), bf16);
    }
}

static void shrink_all(Engine *e, const Low *low, int site, int parts, const unit *x, long units, unit *s)
{
    for (int part = 0; low && part < parts; part++)
        if (low[site + part].rank)
            shrink(&low[site + part], e->model->bf16, x, units, s + part * e->ranks);
}

INLINE v16 expanded(const Low *low, int strip, const unit *s, v16 y, int bf16)      /* (y + B s) * gain of one strip */
{
    const unit *b = low->b + (long)strip * low->units * LANES;
    for (int u = 0; u < low->units; u++)
        y = dot(y, load_units(b + u * LANES), same(s[u]), bf16);
    return low->gain ? y * load(low->gain + strip * LANES) : y;
}

typedef enum { STORE, ADD, GLU } Finish;

typedef struct {
    const Matrix *matrix;
    const unit *x;
    long stride;
    int rows, site;          /* `site`: the adapter's first Low of this matrix */
    const Low **low;
    Finish finish;
    float *out;              /* STORE, ADD */
    unit *units_out;         /* GLU */
    long width, columns;     /* of a row of `out`; those that exist */
} Product;

INLINE int part_of(const Matrix *matrix, int strip)
{
    if (matrix->interleaved)
        return strip & 1;
    return (strip >= matrix->first[1]) + (strip >= matrix->first[2]);
}

INLINE int place_of(const Matrix *matrix, int strip, int part)      /* of a strip within its part */
{
    return matrix->interleaved ? strip >> 1 : strip - matrix->first[part];
}

INLINE v16 finished(const Engine *e, const Product *p, int row, int strip, v16 y)
{
    const Matrix *matrix = p->matrix;
    int part = part_of(matrix, strip);
    const Low *low = p->low[row] ? p->low[row] + p->site + part : NULL;
    if (low && low->rank)
        y = expanded(low, place_of(matrix, strip, part), e->s + ((long)row * PARTS + part) * e->ranks, y, e->model->bf16);
    return matrix->bias ? y + load(matrix->bias + (long)strip * LANES) : y;
}

static void put(const Product *p, int row, int strip, v16 y)
{
    long column = (long)strip * LANES;
    float *out = p->out + row * p->width + column;
    if (p->columns - column >= LANES)
        store(out, p->finish == ADD ? load(out) + y : y);
    else if (p->columns > column)
        memcpy(out, &y, sizeof(float) * (p->columns - column));
}

static void finish(const Engine *e, const Product *p, int row, int tile, const float *sums)
{
    int second = 2 * tile + 1 < p->matrix->strips;
    v16 y = finished(e, p, row, 2 * tile, load(sums)), z = second ? finished(e, p, row, 2 * tile + 1, load(sums + LANES)) : y;
    if (p->finish == GLU) {
        narrow(p->units_out + row * p->width, (long)tile * LANES, activated(y, e->model->gelu) * z, e->model->bf16);
        return;
    }
    put(p, row, 2 * tile, y);
    if (second)
        put(p, row, 2 * tile + 1, z);
}

/* Fetch what the adapters of `rows` rows add to a tile while the tile itself is computed: their parts of B are short and
 * lie far apart, so that memory would be waited for once an adapter. */
static void fetch_low(const Product *p, int from, int rows, int tile)
{
    const Matrix *matrix = p->matrix;
    for (int row = from; row < from + rows; row++)
        for (int strip = 2 * tile; p->low[row] && strip < 2 * tile + 2 && strip < matrix->strips && (row == from || p->low[row] != p->low[row - 1]); strip++) {
            int part = part_of(matrix, strip);
            const Low *low = p->low[row] + p->site + part;
            const unit *b = low->b + (long)place_of(matrix, strip, part) * low->units * LANES;
            for (int u = 0; low->rank && u < low->units; u++)
                __builtin_prefetch(b + u * LANES);
        }
}

static void multiply(Thread *me, const Product *p)
{
    Engine *e = engine_of(me);
    const Matrix *matrix = p->matrix;
    int tiles = (matrix->strips + 1) / 2, chunks = (p->rows + CHUNK - 1) / CHUNK;
    _Alignas(64) float sums[BLOCK][TILE];
    EACH(task, tiles * chunks) {
        int tile = task % tiles, start = task / tiles * CHUNK, end = start + CHUNK < p->rows ? start + CHUNK : p->rows;
        for (int row = start; row < end; row += BLOCK) {
            int count = end - row < BLOCK ? end - row : BLOCK;
            if (e->adapted)
                fetch_low(p, row, count, tile);
            product(count, e->model->bf16, p->x + row * p->stride, p->stride, matrix->tiles + (long)tile * matrix->units * TILE,
                    matrix->units, sums);
            for (int m = 0; m < count; m++)
                finish(e, p, row + m, tile, sums[m]);
        }
    }
}
