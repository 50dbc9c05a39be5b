/* The forward pass of the Llama family for ragged batches, on the cores of one machine. Knows pointers and sizes, which
 * the Python side has checked; knows no file, no tokenizer and no request.
 *
 * Every number is computed by one thread in an order that depends on its own row alone: neither the other rows of the
 * step, nor how a prompt was cut into steps, nor the number of threads changes a bit of it.
 */
#include "numbers.h"
#include "pool.h"
#include "model.h"
#include "engine.h"
#include "kernel.h"
#include "products.h"
#include "rows.h"
#include "attention.h"

static void settle(Engine *e, const float *weight, int row)   /* add a normed output to the residual stream, where a model norms it */
{
    float *x = residual(e, row), *y = e->wide + row * wide_width(e->model);
    if (!weight)
        return;
    norm_in_place(e->model, y, weight, residual_width(e->model), e->model->hidden);
    for (long i = 0; i < residual_width(e->model); i++)
        x[i] += y[i];
}

static void prepare(Thread *me, const float *settled, const float *norm, int site, int parts)
{
    Engine *e = engine_of(me);
    const Model *m = e->model;
    long stride = row_units(m, m->hidden);
    EACH(row, e->rows) {
        unit *x = e->x + row * stride;
        settle(e, settled, row);
        normed(m, residual(e, row), norm, x);
        shrink_all(e, e->low[row], site, parts, x, units_of(m->hidden, m->bf16), e->s + (long)row * PARTS * e->ranks);
    }
}

static void shrink_rows(Thread *me, int site, const unit *x, long elements)
{
    Engine *e = engine_of(me);
    const Model *m = e->model;
    if (!e->adapted)
        return;
    EACH(row, e->rows)
        shrink_all(e, e->low[row], site, 1, x + row * row_units(m, elements), units_of(elements, m->bf16),
                   e->s + (long)row * PARTS * e->ranks);
}

static void into_residual(Thread *me, const Matrix *matrix, const unit *x, long elements, int site, int normed_first)
{
    Engine *e = engine_of(me);
    const Model *m = e->model;
    long width = normed_first ? wide_width(m) : residual_width(m);
    shrink_rows(me, site, x, elements);
    multiply(me, &(Product){.matrix = matrix, .x = x, .stride = row_units(m, elements), .rows = e->rows, .site = site, .low = e->low,
                           .finish = normed_first ? STORE : ADD, .out = normed_first ? e->wide : e->hidden,
                           .width = width, .columns = width});
}

static void run_layer(Thread *me, int index)
{
    Engine *e = engine_of(me);
    const Model *m = e->model;
    const Layer *layer = &m->layer[index];
    int site = index * SITES;
    prepare(me, index ? layer[-1].norm_fed : NULL, layer->norm_in, site + Q, 3);
    multiply(me, &(Product){.matrix = &layer->qkv, .x = e->x, .stride = row_units(m, m->hidden), .rows = e->rows, .site = site + Q,
                           .low = e->low, .finish = STORE, .out = e->wide, .width = wide_width(m), .columns = wide_width(m)});
    EACH(row, e->rows)
        ready(e, index, row);
    attend_all(me, index);
    into_residual(me, &layer->o, e->attended, m->heads * m->head_dim, site + O, layer->norm_attended != NULL);
    prepare(me, layer->norm_attended, layer->norm_mlp, site + GATE, 2);
    multiply(me, &(Product){.matrix = &layer->glu, .x = e->x, .stride = row_units(m, m->hidden), .rows = e->rows, .site = site + GATE,
                           .low = e->low, .finish = GLU, .units_out = e->fed, .width = row_units(m, m->inner)});
    into_residual(me, &layer->down, e->fed, m->inner, site + DOWN, layer->norm_fed != NULL);
}

static void predict(Thread *me) /* logits of the rows that are wanted */
{
    Engine *e = engine_of(me);
    const Model *m = e->model;
    long stride = row_units(m, m->hidden), site = m->layers * SITES;
    EACH(i, e->outputs) {
        int row = e->output_row[i];
        settle(e, m->layer[m->layers - 1].norm_fed, row);
        normed(m, residual(e, row), m->norm_out, e->x + i * stride);
        shrink_all(e, e->low[row], site, 1, e->x + i * stride, units_of(m->hidden, m->bf16), e->s + (long)i * PARTS * e->ranks);
    }
    multiply(me, &(Product){.matrix = &m->head, .x = e->x, .stride = stride, .rows = e->outputs, .site = site, .low = e->output_low,
                           .finish = STORE, .out = e->logits, .width = m->vocabulary, .columns = m->vocabulary});
    if (m->logit_cap) {
        EACH(i, e->outputs)
            for (long t = 0; t < m->vocabulary; t++)
                e->logits[(long)i * m->vocabulary + t] = capped(all(e->logits[(long)i * m->vocabulary + t]), m->logit_cap)[0];
    }
}

static void forward(Thread *me)
{
    Engine *e = engine_of(me);
    EACH(row, e->rows) {
        embed(e, row);
        measure_angles(e, row);
    }
    for (int index = 0; index < e->model->layers; index++)
        run_layer(me, index);
    predict(me);
}

static int make_room(Engine *e, long rows, long longest, long ranks)
{
    const Model *m = e->model;
    long group = m->heads / m->kv_heads;
    int room = 1;
    if (longest > e->longest) {
        room &= grow(&e->scores, sizeof(float) * m->threads * BLOCK * longest);
        e->longest = longest;
    }
    if (rows > e->capacity || ranks > e->ranks) {
        rows = rows > e->capacity ? rows : e->capacity;
        ranks = ranks > e->ranks ? ranks : e->ranks;
        room &= grow(&e->position, sizeof(int32_t) * rows) & grow(&e->output_row, sizeof(int32_t) * rows)
              & grow(&e->segment_of, sizeof(void *) * rows) & grow(&e->stretch, sizeof(Stretch) * rows)
              & grow(&e->low, sizeof(void *) * rows) & grow(&e->output_low, sizeof(void *) * rows)
              & grow(&e->hidden, sizeof(float) * rows * residual_width(m)) & grow(&e->wide, sizeof(float) * rows * wide_width(m))
              & grow(&e->angles, sizeof(float) * ROPES * rows * m->head_dim)
              & grow(&e->x, sizeof(unit) * rows * row_units(m, m->hidden))
              & grow(&e->attended, sizeof(unit) * rows * row_units(m, m->heads * m->head_dim))
              & grow(&e->fed, sizeof(unit) * rows * row_units(m, m->inner))
              & grow(&e->query, sizeof(unit) * rows * m->kv_heads * group * units_of(m->head_dim, m->bf16))
              & grow(&e->s, sizeof(unit) * rows * PARTS * ranks);
        e->capacity = rows, e->ranks = ranks;
    }
    return room;
}

static void lay_out(Engine *e, const Segment *segments, int count)   /* the segments, row by row */
{
    int group = BLOCK / heads_together(e->model);
    e->rows = e->outputs = e->stretches = e->adapted = 0;
    for (const Segment *segment = segments; segment < segments + count; segment++) {
        e->adapted |= segment->low != NULL;
        for (int i = 0; i < segment->count; i++, e->rows++) {
            e->position[e->rows] = segment->start + i;
            e->segment_of[e->rows] = segment;
            e->low[e->rows] = segment->low;
            if (i % group == 0)
                e->stretch[e->stretches++] = (Stretch){e->rows, segment->count - i < group ? segment->count - i : group};
            if (i >= segment->count - segment->outputs) {
                e->output_low[e->outputs] = segment->low;
                e->output_row[e->outputs++] = e->rows;
            }
        }
    }
}

/* What Python calls. */

const int32_t adreg_sizes[] = {sizeof(Matrix), sizeof(Low), sizeof(Layer), sizeof(Model), sizeof(Segment)};

void adreg_close(Engine *e)
{
    close_pool(&e->pool);
    void *owned[] = {e->scores, e->position, e->output_row, e->segment_of, e->stretch, e->low, e->output_low,
                     e->hidden, e->wide, e->angles, e->x, e->attended, e->fed, e->query, e->s};
    for (unsigned i = 0; i < sizeof owned / sizeof *owned; i++)
        free(owned[i]);
    free(e);
}

Engine *adreg_open(const Model *model)                  /* NULL: no memory, or no threads */
{
    Engine *e = aligned_alloc(64, padded(sizeof(Engine), 64));
    if (!e)
        return NULL;
    memset(e, 0, sizeof *e);
    e->model = model;
    if (open_pool(&e->pool, model->threads, forward))
        return e;
    free(e);
    return NULL;
}

/* Run `segments`; `tokens` are theirs one after the other, `rank` is the largest of their adapters, `logits` gets the rows
 * that they want. 0, or -1 where there is no memory. */
int adreg_step(Engine *e, const Segment *segments, int count, const int32_t *tokens, int rank, float *logits)
{
    long rows = 0, longest = TILE;
    for (int i = 0; i < count; i++) {
        long length = padded((long)segments[i].start + segments[i].count, TILE);
        rows += segments[i].count;
        longest = length > longest ? length : longest;
    }
    if (!make_room(e, rows, longest, units_of(padded(rank, LANES), e->model->bf16)))
        return -1;
    e->tokens = tokens;
    e->logits = logits;
    lay_out(e, segments, count);
    run(&e->pool);
    return 0;
}
