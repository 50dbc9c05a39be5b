/* What Python fills in; structs.py mirrors it, field by field. */

#define PARTS 3     /* projections that one matrix may fuse */
#define ROPES 2     /* kinds of rotary frequencies that a model may mix */

typedef struct {            /* one matrix, of up to PARTS projections of the same input */
    const unit *tiles;
    const float *bias;      /* or NULL */
    int32_t units, strips;  /* of one output; of all parts */
    int32_t first[PARTS];   /* strip at which each part begins; INT32_MAX: no such part */
    int32_t interleaved;    /* two parts whose strips alternate */
} Matrix;

typedef struct {            /* what one adapter does to one projection */
    const unit *a;          /* [rank][input units, padded to 16]; of an embedding: [vocabulary][units of rank] */
    const unit *b;          /* strips, the scaling folded in */
    const float *gain;      /* DoRA's factor of each output, or NULL */
    int32_t rank, units;    /* rank 0: the projection is not adapted */
} Low;

enum { Q, K, V, O, GATE, UP, DOWN, SITES };   /* an adapter is Low[layers][SITES], then the head's and the embedding's */

typedef struct {
    Matrix qkv, o, glu, down;
    const float *norm_in, *norm_mlp;
    const float *norm_q, *norm_k;              /* or NULL */
    const float *norm_attended, *norm_fed;     /* of what is added to the residual stream, or NULL */
    int32_t rope;                              /* which of the model's frequencies turn its queries and keys */
    int32_t window;                            /* positions that a row sees, itself included; 0: all */
} Layer;

typedef struct {
    int32_t bf16, threads, layers, hidden, heads, kv_heads, head_dim, inner, vocabulary, gelu;
    float eps, score_scale, score_cap, logit_cap, embedding_scale, rope_scale;
    const Layer *layer;
    Matrix embedding, head;
    const float *norm_out;
    const float *frequencies[ROPES];           /* [head_dim / 2], or NULL */
} Model;

typedef struct {            /* what one sequence adds to a step */
    unit *memory;
    const Low *low;         /* or NULL: the base alone */
    int64_t capacity;       /* positions, a multiple of 32 */
    int32_t start, count, outputs, reserved;
} Segment;
