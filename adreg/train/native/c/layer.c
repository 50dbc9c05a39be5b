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
#include "memory.h"
#include "parts.h"

static void pack_forward(Thread *me)
{
    const Engine *e = engine_of(me);
    EACH(site, SITES) {
        const Linear *linear = &e->layer->linear[site];
        int group = group_of(site);
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
            int group = group_of(task);
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
