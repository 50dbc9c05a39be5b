/* A decoder layer of the Llama family over flattened rows, forward and back, for a frozen bfloat16 base with float32 LoRA, on
 * the cores of one machine. Knows pointers and sizes, which the Python side has checked; knows no optimizer and no data.
 *
 * Every number is computed by one thread in an order that the number of threads does not change.
 */
#if !defined(__AVX512BF16__)
#error "this processor does not multiply bfloat16"
#endif

#include "numbers.h"
#include "pool.h"
#include "model.h"
#include "packing.h"
#include "products.h"
#include "elementwise.h"
#include "attention.h"

#define SLAB 24                                /* tokens of a task that goes token by token */

enum { QKV, OUT, GLU, INNER, GROUPS };         /* projections of one input */
static const int FIRST[GROUPS + 1] = {Q, O, GATE, DOWN, SITES};

typedef struct {                               /* of one layer, for the way back */
    float *inverse_in, *inverse_mlp, *sums;
    half *qkv, *attended, *middle, *gate, *up;
    half *s[GROUPS];                           /* [tokens][ranks of the group]: A x */
} Kept;

typedef struct {                               /* of the layer that is computed */
    half *normed_in, *normed_mlp, *hidden;
    half *hidden_back, *gate_back, *up_back, *normed_back, *middle_back, *attended_back, *qkv_back;
    half *back[GROUPS];                        /* [tokens][ranks]: what comes back through scaled B */
    half *s_turned[GROUPS], *back_turned[GROUPS];         /* [ranks][tokens] */
    unit *a_in[GROUPS], *a_out[GROUPS], *b_in[SITES], *b_out[SITES];
    float *first_keys, *first_values;
    unit *rooms;                               /* [threads][room] */
    Desk *desks;
    long room;
} Work;

typedef struct {
    Pool pool;                                 /* first: a thread's pool is the engine */
    const Layer *layer;
    Pass pass;
    Kept kept;
    Work work;
    void *memory;
    long bytes;
} Engine;

INLINE Engine *engine_of(const Thread *me) { return (Engine *)me->pool; }
INLINE unit *room_of(const Thread *me) { return engine_of(me)->work.rooms + me->index * engine_of(me)->work.room; }
INLINE long attended_width(const Layer *l) { return (long)l->heads * l->head_dim; }

static long ranks_before(const Layer *l, int group, int site)      /* of the group's layers before `site`, each made even */
{
    long ranks = 0;
    for (int i = FIRST[group]; i < site; i++)
        ranks += even(l->linear[i].rank);
    return ranks;
}

INLINE long ranks_of(const Layer *l, int group) { return ranks_before(l, group, FIRST[group + 1]); }

/* Where things lie. Each takes the next cache lines behind `at`, which may be NULL to measure. */

static void *next(char **at, long bytes)
{
    char *place = *at;
    *at += padded(bytes, 64);
    return place;
}

static long lay_kept(Kept *k, const Layer *l, long tokens, void *memory)
{
    char *at = memory;
    k->inverse_in = next(&at, sizeof(float) * tokens);
    k->inverse_mlp = next(&at, sizeof(float) * tokens);
    k->sums = next(&at, sizeof(float) * tokens * l->heads);
    k->qkv = next(&at, sizeof(half) * tokens * wide_of(l));
    k->attended = next(&at, sizeof(half) * tokens * attended_width(l));
    k->middle = next(&at, sizeof(half) * tokens * l->hidden);
    k->gate = next(&at, sizeof(half) * tokens * l->inner);
    k->up = next(&at, sizeof(half) * tokens * l->inner);
    for (int group = 0; group < GROUPS; group++)
        k->s[group] = next(&at, sizeof(half) * tokens * ranks_of(l, group));
    return at - (char *)memory;
}

static void lay_desk(Desk *desk, const Layer *l, long longest, char **at)
{
    long d = l->head_dim;
    desk->longest = longest;
    desk->key = next(at, sizeof(half) * longest * d);
    desk->value = next(at, sizeof(half) * longest * d);
    desk->key_rows = next(at, sizeof(unit) * longest * d / 2);
    desk->value_rows = next(at, sizeof(unit) * longest * d / 2);
    desk->key_columns = next(at, sizeof(unit) * longest * d / 2);
    desk->value_columns = next(at, sizeof(unit) * longest * d / 2);
    desk->scores = next(at, sizeof(float) * BLOCK * longest);
    desk->shifts = next(at, sizeof(float) * BLOCK * longest);
    desk->p = next(at, sizeof(half) * BLOCK * longest);
    desk->ds = next(at, sizeof(half) * BLOCK * longest);
    desk->p_turned = next(at, sizeof(half) * TURN * longest);
    desk->ds_turned = next(at, sizeof(half) * TURN * longest);
    desk->query_columns = next(at, sizeof(unit) * TURN * d / 2);
    desk->out_columns = next(at, sizeof(unit) * TURN * d / 2);
    desk->key_back = next(at, sizeof(float) * longest * d);
    desk->value_back = next(at, sizeof(float) * longest * d);
}

static long most(long a, long b) { return a > b ? a : b; }

static long lay_work(Work *w, const Layer *l, const Pass *p, int threads, void *memory)
{
    char *at = memory;
    long n = p->tokens, longest = 0, before = 0, turned = padded(n, 2);
    for (int i = 0; i < p->rows; i++) {
        longest = most(longest, padded(p->row[i].before + p->row[i].count, TILE));
        before = most(before, p->row[i].before);
    }
    half **by_inner[] = {&w->hidden, &w->hidden_back, &w->gate_back, &w->up_back};
    half **by_hidden[] = {&w->normed_in, &w->normed_mlp, &w->normed_back, &w->middle_back};
    for (int i = 0; i < 4; i++) {
        *by_inner[i] = next(&at, sizeof(half) * n * l->inner);
        *by_hidden[i] = next(&at, sizeof(half) * n * l->hidden);
    }
    w->attended_back = next(&at, sizeof(half) * n * attended_width(l));
    w->qkv_back = next(&at, sizeof(half) * n * wide_of(l));
    for (int group = 0; group < GROUPS; group++) {
        long ranks = ranks_of(l, group), inputs = l->linear[FIRST[group]].inputs;
        w->back[group] = next(&at, sizeof(half) * n * ranks);
        w->s_turned[group] = next(&at, sizeof(half) * turned * ranks);
        w->back_turned[group] = next(&at, sizeof(half) * turned * ranks);
        w->a_in[group] = next(&at, sizeof(half) * inputs * padded(ranks, TILE));
        w->a_out[group] = next(&at, sizeof(half) * inputs * ranks);
    }
    for (int site = 0; site < SITES; site++) {
        long ranks = even(l->linear[site].rank), outputs = l->linear[site].outputs;
        w->b_in[site] = next(&at, sizeof(half) * outputs * padded(ranks, TILE));
        w->b_out[site] = next(&at, sizeof(half) * outputs * ranks);
    }
    w->first_keys = next(&at, sizeof(float) * before * l->kv_heads * l->head_dim);
    w->first_values = next(&at, sizeof(float) * before * l->kv_heads * l->head_dim);
    w->room = TILE * padded(most(most(l->inner, wide_of(l)), most(l->hidden, n / 2 + 1)), LANES);
    w->rooms = next(&at, sizeof(unit) * w->room * threads);
    w->desks = next(&at, sizeof(Desk) * threads);
    for (int i = 0; i < threads; i++) {
        Desk unused;
        lay_desk(memory ? &w->desks[i] : &unused, l, longest, &at);
    }
    return at - (char *)memory;
}

/* Terms and products of a layer's parts. */

INLINE Term through(const half *x, long width, const Linear *linear)               /* x W' */
{
    return (Term){.x = (const unit *)x, .stride = width / 2, .w = linear->weight, .pitch = linear->inputs, .units = linear->inputs / 2, .lie = ROWS};
}

INLINE Term back_through(const half *x, long width, const Linear *linear)          /* x W */
{
    return (Term){.x = (const unit *)x, .stride = width / 2, .w = linear->weight, .pitch = linear->inputs, .units = linear->outputs / 2,
                  .depth = linear->outputs, .lie = COLUMNS};
}

INLINE Term packed(const half *x, long width, const unit *tiles, long elements)
{
    return (Term){.x = (const unit *)x, .stride = width / 2, .w = tiles, .units = elements / 2, .lie = TILES};
}

/* The layer at `site`, whose adapter has begun with s; what it gives goes to `out`, `width` elements a token. */
static Product forward_of(const Engine *e, int group, int site, const half *x, half *out, long width, const half *added)
{
    const Linear *linear = &e->layer->linear[site];
    long ranks = ranks_of(e->layer, group);
    Product p = {.term = {through(x, linear->inputs, linear)}, .terms = 1, .form = added ? ADDED : HALVES, .rows = e->pass.tokens,
                 .columns = linear->outputs, .width = width, .out = out, .bias = linear->bias, .added = added};
    if (linear->rank)
        p.term[p.terms++] = packed(e->kept.s[group] + ranks_before(e->layer, group, site), ranks, e->work.b_out[site], even(linear->rank));
    return p;
}

static Product shrink(const Engine *e, int group, const half *x)                   /* s = A x of all layers of the group */
{
    long ranks = ranks_of(e->layer, group), inputs = e->layer->linear[FIRST[group]].inputs;
    return (Product){.term = {packed(x, inputs, e->work.a_in[group], inputs)}, .terms = 1, .form = HALVES, .rows = e->pass.tokens,
                     .columns = ranks, .width = ranks, .chunk = SLAB, .out = e->kept.s[group]};
}

static Product shrink_back(const Engine *e, int group, int site, const half *back, long width)      /* through scaled B */
{
    const Linear *linear = &e->layer->linear[site];
    return (Product){.term = {packed(back, width, e->work.b_in[site], linear->outputs)}, .terms = 1, .form = HALVES, .rows = e->pass.tokens,
                     .columns = even(linear->rank), .width = ranks_of(e->layer, group), .chunk = SLAB,
                     .out = e->work.back[group] + ranks_before(e->layer, group, site)};
}

/* What a group's input gets back, from what its layers get: `back[i]` has `width` elements a token. */
static Product input_back(const Engine *e, int group, const half *const *back, long width, half *out)
{
    const Layer *l = e->layer;
    long inputs = l->linear[FIRST[group]].inputs, ranks = ranks_of(l, group);
    Product p = {.form = HALVES, .rows = e->pass.tokens, .columns = inputs, .width = inputs, .out = out};
    for (int site = FIRST[group]; site < FIRST[group + 1]; site++)
        p.term[p.terms++] = back_through(back[site - FIRST[group]], width, &l->linear[site]);
    if (ranks)
        p.term[p.terms++] = packed(e->work.back[group], ranks, e->work.a_out[group], ranks);
    return p;
}

static void shrink_slab(Thread *me, const Product *p, long slab)
{
    for (long tile = 0; tile < tiles_of(p); tile++)
        multiply(p, slab * tiles_of(p) + tile, room_of(me));
}

#define SLABS(e) (((e)->pass.tokens + SLAB - 1) / SLAB)
#define TOKENS(e, slab, t) for (long t = (long)(slab) * SLAB; t < ((slab) + 1) * SLAB && t < (e)->pass.tokens; t++)

static Scene scene_of(const Engine *e)
{
    return (Scene){.layer = e->layer, .qkv = e->kept.qkv, .out = e->kept.attended, .sums = e->kept.sums, .out_back = e->work.attended_back,
                   .qkv_back = e->work.qkv_back, .first_keys = e->work.first_keys, .first_values = e->work.first_values,
                   .cosines = e->pass.cosines, .sines = e->pass.sines, .tokens = e->pass.tokens};
}

static void pack_forward(Thread *me)
{
    const Engine *e = engine_of(me);
    EACH(site, SITES) {
        const Linear *linear = &e->layer->linear[site];
        int group = (site >= O) + (site >= GATE) + (site >= DOWN);
        pack_a_inward(linear->a, linear->rank, linear->inputs, e->work.a_in[group], ranks_before(e->layer, group, site));
        pack_b_outward(linear->b, linear->rank, linear->outputs, linear->scaling, e->work.b_out[site]);
    }
}

static void attend_forward(Thread *me)
{
    const Engine *e = engine_of(me);
    const Layer *l = e->layer;
    Scene scene = scene_of(e);
    EACH(slab, SLABS(e))
        TOKENS(e, slab, t)
            for (int head = 0; head < l->heads + l->kv_heads; head++)
                turned(e->kept.qkv + t * wide_of(l) + head * l->head_dim, e->pass.cosines + t * l->head_dim, e->pass.sines + t * l->head_dim,
                       l->head_dim);
    EACH(task, e->pass.rows * l->heads)
        attend(&scene, &e->pass.row[task / l->heads], task % l->heads, &e->work.desks[me->index]);
}

static void forward(Thread *me)
{
    Engine *e = engine_of(me);
    const Layer *l = e->layer;
    const Pass *pass = &e->pass;
    const Kept *k = &e->kept;
    const Work *w = &e->work;
    long wide = wide_of(l), n = l->hidden;
    pack_forward(me);
    Product low = shrink(e, QKV, w->normed_in);
    EACH(slab, SLABS(e)) {
        TOKENS(e, slab, t) {
            k->inverse_in[t] = inverse_rms(pass->x + t * n, n, l->eps);
            normed(pass->x + t * n, l->norm_in, k->inverse_in[t], n, w->normed_in + t * n);
        }
        shrink_slab(me, &low, slab);
    }
    half *key = k->qkv + attended_width(l), *value = key + l->kv_heads * l->head_dim;
    Product projected[] = {forward_of(e, QKV, Q, w->normed_in, k->qkv, wide, NULL), forward_of(e, QKV, K, w->normed_in, key, wide, NULL),
                           forward_of(e, QKV, V, w->normed_in, value, wide, NULL)};
    multiply_each(me, projected, 3, room_of(me));
    attend_forward(me);
    low = shrink(e, OUT, k->attended);
    EACH(slab, SLABS(e))
        shrink_slab(me, &low, slab);
    Product out = forward_of(e, OUT, O, k->attended, k->middle, n, pass->x);
    multiply_each(me, &out, 1, room_of(me));
    low = shrink(e, GLU, w->normed_mlp);
    EACH(slab, SLABS(e)) {
        TOKENS(e, slab, t) {
            k->inverse_mlp[t] = inverse_rms(k->middle + t * n, n, l->eps);
            normed(k->middle + t * n, l->norm_mlp, k->inverse_mlp[t], n, w->normed_mlp + t * n);
        }
        shrink_slab(me, &low, slab);
    }
    Product glu[] = {forward_of(e, GLU, GATE, w->normed_mlp, k->gate, l->inner, NULL), forward_of(e, GLU, UP, w->normed_mlp, k->up, l->inner, NULL)};
    multiply_each(me, glu, 2, room_of(me));
    low = shrink(e, INNER, w->hidden);
    EACH(slab, SLABS(e)) {
        TOKENS(e, slab, t)
            gated(k->gate + t * l->inner, k->up + t * l->inner, l->inner, w->hidden + t * l->inner);
        shrink_slab(me, &low, slab);
    }
    Product down = forward_of(e, INNER, DOWN, w->hidden, pass->y, n, k->middle);
    multiply_each(me, &down, 1, room_of(me));
}

/* The way back. */

static void prepare_back(Thread *me)           /* factors packed, and inputs that were not kept taken again */
{
    const Engine *e = engine_of(me);
    const Layer *l = e->layer;
    const Kept *k = &e->kept;
    const Work *w = &e->work;
    long n = l->hidden;
    EACH(task, SITES + SLABS(e)) {
        if (task < SITES) {
            const Linear *linear = &l->linear[task];
            int group = (task >= O) + (task >= GATE) + (task >= DOWN);
            pack_a_outward(linear->a, linear->rank, linear->inputs, w->a_out[group], ranks_of(l, group) / 2, ranks_before(l, group, task) / 2);
            pack_b_inward(linear->b, linear->rank, linear->outputs, linear->scaling, w->b_in[task]);
            continue;
        }
        TOKENS(e, task - SITES, t) {
            normed(e->pass.x + t * n, l->norm_in, k->inverse_in[t], n, w->normed_in + t * n);
            normed(k->middle + t * n, l->norm_mlp, k->inverse_mlp[t], n, w->normed_mlp + t * n);
            gated(k->gate + t * l->inner, k->up + t * l->inner, l->inner, w->hidden + t * l->inner);
        }
    }
}

static void group_back(Thread *me, int group, const half *const *back, long width, half *out)      /* to the input of a group */
{
    const Engine *e = engine_of(me);
    Product low[3] = {};
    for (int site = FIRST[group]; site < FIRST[group + 1]; site++)
        low[site - FIRST[group]] = shrink_back(e, group, site, back[site - FIRST[group]], width);
    multiply_each(me, low, FIRST[group + 1] - FIRST[group], room_of(me));
    Product p = input_back(e, group, back, width, out);
    if (out)
        multiply_each(me, &p, 1, room_of(me));
}

static void attention_back(Thread *me)
{
    Engine *e = engine_of(me);
    const Pass *pass = &e->pass;
    const Layer *l = e->layer;
    Scene scene = scene_of(e);
    Desk *desk = &e->work.desks[me->index];
    long before = pass->row->before;
    if (!before) {
        EACH(task, pass->rows * l->kv_heads) {
            attend_back(&scene, &pass->row[task / l->kv_heads], task % l->kv_heads, desk);
            send_keys_back(&scene, &pass->row[task / l->kv_heads], task % l->kv_heads, desk, 0);
        }
        return;
    }
    EACH(head, l->kv_heads) {                  /* rows add to the same first keys, those whose own they are come last */
        memset(scene.first_keys + head * before * l->head_dim, 0, sizeof(float) * before * l->head_dim);
        memset(scene.first_values + head * before * l->head_dim, 0, sizeof(float) * before * l->head_dim);
        for (int row = 0; row < pass->rows; row++) {
            attend_back(&scene, &pass->row[row], head, desk);
            send_keys_back(&scene, &pass->row[row], head, desk, before);
        }
    }
}

static void turn_ranks(Thread *me)             /* s and back of all groups, rank after rank */
{
    const Engine *e = engine_of(me);
    long n = e->pass.tokens, turned = padded(n, 2);
    EACH(task, 2 * GROUPS) {
        int group = task / 2;
        long ranks = ranks_of(e->layer, group);
        const half *from = task % 2 ? e->work.back[group] : e->kept.s[group];
        half *to = task % 2 ? e->work.back_turned[group] : e->work.s_turned[group];
        for (long rank = 0; rank < ranks; rank++) {
            to[rank * turned + turned - 1] = 0;
            for (long t = 0; t < n; t++)
                to[rank * turned + t] = from[t * ranks + rank];
        }
    }
}

static void factors_back(Thread *me, const half *const *inputs, const half *const *back, const long *width)       /* dA and dB */
{
    const Engine *e = engine_of(me);
    const Layer *l = e->layer;
    long n = e->pass.tokens, turned = padded(n, 2);
    Product products[GROUPS + SITES];
    int count = 0;
    turn_ranks(me);
    for (int group = 0; group < GROUPS; group++) {
        const Linear *first = &l->linear[FIRST[group]];
        if (ranks_of(l, group))
            products[count++] = (Product){
                .term = {{.x = (const unit *)e->work.back_turned[group], .stride = turned / 2, .w = inputs[group], .pitch = first->inputs,
                          .units = turned / 2, .depth = n, .lie = COLUMNS}},
                .terms = 1, .form = FLOATS, .rows = ranks_of(l, group), .columns = first->inputs, .width = first->inputs, .out = first->da};
        for (int site = FIRST[group]; site < FIRST[group + 1]; site++) {
            const Linear *linear = &l->linear[site];
            if (linear->rank)
                products[count++] = (Product){
                    .term = {{.x = (const unit *)(e->work.s_turned[group] + ranks_before(l, group, site) * turned), .stride = turned / 2,
                              .w = back[site], .pitch = width[site], .units = turned / 2, .depth = n, .lie = COLUMNS}},
                    .terms = 1, .form = ACROSS, .rows = linear->rank, .columns = linear->outputs, .width = linear->rank, .out = linear->db,
                    .scale = linear->scaling};
        }
    }
    multiply_each(me, products, count, room_of(me));
}

static void backward(Thread *me)
{
    Engine *e = engine_of(me);
    const Layer *l = e->layer;
    const Pass *pass = &e->pass;
    const Kept *k = &e->kept;
    const Work *w = &e->work;
    long wide = wide_of(l), n = l->hidden, inner = l->inner;
    const half *key_back = w->qkv_back + attended_width(l), *value_back = key_back + l->kv_heads * l->head_dim;
    const half *back[SITES] = {w->qkv_back, key_back, value_back, w->middle_back, w->gate_back, w->up_back, pass->dy};
    const half *inputs[GROUPS] = {w->normed_in, k->attended, w->normed_mlp, w->hidden};
    const long width[SITES] = {wide, wide, wide, n, inner, inner, n};
    prepare_back(me);
    group_back(me, INNER, &back[DOWN], n, w->hidden_back);
    EACH(slab, SLABS(e))
        TOKENS(e, slab, t)
            gated_back(k->gate + t * inner, k->up + t * inner, w->hidden_back + t * inner, inner, w->gate_back + t * inner, w->up_back + t * inner);
    group_back(me, GLU, &back[GATE], inner, w->normed_back);
    EACH(slab, SLABS(e))
        TOKENS(e, slab, t)
            norm_back(k->middle + t * n, l->norm_mlp, k->inverse_mlp[t], w->normed_back + t * n, pass->dy + t * n, n, w->middle_back + t * n);
    group_back(me, OUT, &back[O], n, w->attended_back);
    attention_back(me);
    group_back(me, QKV, &back[Q], wide, pass->dx ? w->normed_back : NULL);
    EACH(slab, pass->dx ? SLABS(e) : 0)
        TOKENS(e, slab, t)
            norm_back(pass->x + t * n, l->norm_in, k->inverse_in[t], w->normed_back + t * n, w->middle_back + t * n, n, pass->dx + t * n);
    factors_back(me, inputs, back, width);
}

/* What Python calls. */

const int32_t adreg_sizes[] = {sizeof(Linear), sizeof(Layer), sizeof(Row), sizeof(Pass)};

static void either(Thread *me)
{
    if (engine_of(me)->pass.dy)
        backward(me);
    else
        forward(me);
}

Engine *adreg_open(int threads)                        /* NULL: no memory, or no threads */
{
    Engine *e = NULL;
    if (grow(&e, sizeof *e) && open_pool(&e->pool, threads, either))
        return e;
    free(e);
    return NULL;
}

void adreg_close(Engine *e)
{
    close_pool(&e->pool);
    free(e->memory);
    free(e);
}

int64_t adreg_kept(const Layer *layer, int tokens) { return lay_kept(&(Kept){}, layer, tokens, NULL); }

/* One layer, there or, where `dy` is set, back. 0, or -1 where there is no memory. */
int adreg_pass(Engine *e, const Layer *layer, const Pass *pass)
{
    long bytes = lay_work(&e->work, layer, pass, e->pool.count, NULL);
    if (bytes > e->bytes) {
        e->bytes = 0;
        if (!grow(&e->memory, bytes))
            return -1;
        e->bytes = bytes;
    }
    e->layer = layer;
    e->pass = *pass;
    lay_kept(&e->kept, layer, pass->tokens, pass->kept);
    lay_work(&e->work, layer, pass, e->pool.count, e->memory);
    run(&e->pool);
    return 0;
}
