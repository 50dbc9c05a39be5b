/* What Python fills in; structs.py mirrors it, field by field. All matrices are bfloat16, adapters and their gradients float. */

typedef uint16_t half;                         /* a bfloat16 */

typedef struct {                               /* a frozen layer W x + bias with an adapter, + scaling B A x */
    const half *weight, *bias;                 /* [outputs][inputs]; [outputs] or NULL */
    const float *a, *b;                        /* [rank][inputs], [outputs][rank] */
    float *da, *db;                            /* where their gradients go on the way back */
    float scaling;
    int32_t rank, inputs, outputs, reserved;   /* rank 0: no adapter */
} Linear;

enum { Q, K, V, O, GATE, UP, DOWN, SITES };

typedef struct {
    Linear linear[SITES];
    const half *norm_in, *norm_mlp;
    float eps, score_scale;
    int32_t hidden, heads, kv_heads, head_dim, inner, reserved;
} Layer;

typedef struct {                               /* neighbouring tokens that see each other, and the `before` first ones of all */
    int32_t start, count, before;
} Row;

typedef struct {                               /* one layer over flattened rows, there or back */
    const Row *row;
    const half *cosines, *sines;               /* [tokens][head_dim] */
    const half *x;                             /* [tokens][hidden] */
    half *y;                                   /* there: [tokens][hidden] */
    const half *dy;                            /* back: [tokens][hidden] */
    half *dx;                                  /* back: [tokens][hidden], or NULL where nobody asks */
    void *kept;                                /* what the way back needs, `adreg_kept` bytes */
    int32_t rows, tokens;
} Pass;
