/* Numbers sixteen at a time: units and vectors of them. Knows no model.
 *
 * A `unit` is 32 bits: two neighbouring bfloat16 values, or one float. All matrices lie in tiles of 32 outputs,
 * [outputs / 32][units][32], so that two vector registers hold one unit of a tile. This holds for weights, for keys
 * (32 positions a tile) and for values (32 elements of a head a tile, the positions being the units). Half a tile is a
 * strip.
 */
#include <math.h>
#include <stdint.h>
#include <string.h>
#if defined(__AVX2__)
#include <immintrin.h>
#elif defined(__ARM_NEON)
#include <arm_neon.h>
#endif

#define INLINE static inline __attribute__((always_inline))
#define LANES 16    /* outputs of a strip */
#define TILE 32     /* outputs of a tile */
#if defined(__AVX512F__)
#define BLOCK 12    /* rows that the kernel takes at most: as many as their sums have registers */
#else
#define BLOCK 3
#endif

#if defined(__clang__)
#define SHUFFLED(x, ...) __builtin_shufflevector(x, x, __VA_ARGS__)
#else
#define SHUFFLED(x, ...) __builtin_shuffle(x, (i16){__VA_ARGS__})
#endif

typedef uint32_t unit;
typedef float v16 __attribute__((vector_size(64)));
typedef int32_t i16 __attribute__((vector_size(64)));
typedef uint32_t u16 __attribute__((vector_size(64)));

INLINE v16 load(const float *p) { v16 x; memcpy(&x, p, sizeof x); return x; }
INLINE u16 load_units(const unit *p) { u16 x; memcpy(&x, p, sizeof x); return x; }
INLINE void store(float *p, v16 x) { memcpy(p, &x, sizeof x); }
INLINE u16 same(unit x) { return x - (u16){}; }
INLINE v16 all(float x) { return x - (v16){}; }

INLINE v16 fused(v16 a, v16 b, v16 c)          /* a * b + c, rounded once where the machine can */
{
#if defined(__AVX512F__)
    return (v16)_mm512_fmadd_ps((__m512)a, (__m512)b, (__m512)c);
#elif defined(__FMA__) || defined(__ARM_NEON)
    union { v16 whole; float part[LANES]; } x = {a}, y = {b}, z = {c};
#if defined(__FMA__)
    for (int i = 0; i < LANES; i += 8)
        _mm256_storeu_ps(z.part + i, _mm256_fmadd_ps(_mm256_loadu_ps(x.part + i), _mm256_loadu_ps(y.part + i), _mm256_loadu_ps(z.part + i)));
#else
    for (int i = 0; i < LANES; i += 4)
        vst1q_f32(z.part + i, vfmaq_f32(vld1q_f32(z.part + i), vld1q_f32(x.part + i), vld1q_f32(y.part + i)));
#endif
    return z.whole;
#else
    return a * b + c;
#endif
}

INLINE v16 dot(v16 sum, u16 w, u16 x, int bf16)          /* sum + w·x over the elements of one unit, lane by lane */
{
    if (!bf16)
        return fused((v16)w, (v16)x, sum);
#if defined(__AVX512BF16__)
    return (v16)_mm512_dpbf16_ps((__m512)sum, (__m512bh)w, (__m512bh)x);
#else
    sum = fused((v16)(w & 0xffff0000u), (v16)(x & 0xffff0000u), sum);
    return fused((v16)(w << 16), (v16)(x << 16), sum);
#endif
}

INLINE float across(v16 x)
{
    x += SHUFFLED(x, 8, 9, 10, 11, 12, 13, 14, 15, 0, 1, 2, 3, 4, 5, 6, 7);
    x += SHUFFLED(x, 4, 5, 6, 7, 0, 1, 2, 3, 12, 13, 14, 15, 8, 9, 10, 11);
    x += SHUFFLED(x, 2, 3, 0, 1, 6, 7, 4, 5, 10, 11, 8, 9, 14, 15, 12, 13);
    return x[0] + x[1];
}

INLINE v16 least(v16 x, v16 y) { i16 m = x > y; return (v16)(((i16)y & m) | ((i16)x & ~m)); }       /* both keep a NaN x */
INLINE v16 largest(v16 x, v16 y) { i16 m = x < y; return (v16)(((i16)y & m) | ((i16)x & ~m)); }

INLINE v16 exponential(v16 x)                            /* e^x to 2 units in the last place, NaN of NaN */
{
    x = least(largest(x, all(-87.0f)), all(88.0f));
    v16 shifted = fused(x, all(1.44269504f), all(12582912.0f));       /* round(x / ln 2) in its low bits */
    v16 n = shifted - 12582912.0f;
    v16 r = fused(n, all(-1.42860677e-6f), fused(n, all(-0.693145752f), x));
    v16 p = all(1.98756912e-4f);
    p = fused(p, r, all(1.39819994e-3f));
    p = fused(p, r, all(8.33345205e-3f));
    p = fused(p, r, all(4.16657962e-2f));
    p = fused(p, r, all(1.66666657e-1f));
    p = fused(p, r, all(0.5f));
    p = fused(p, r * r, r + 1.0f);
    return (v16)((i16)p + ((i16)shifted << 23));
}

INLINE v16 hyperbolic(v16 x) { v16 e = exponential(x + x); return (e - 1.0f) / (e + 1.0f); }
INLINE v16 capped(v16 x, float cap) { return hyperbolic(x / cap) * cap; }

INLINE v16 activated(v16 x, int gelu)                    /* SiLU, or the tanh form of GELU */
{
    if (!gelu)
        return x / (1.0f + exponential(-x));
    return 0.5f * x * (1.0f + hyperbolic(0.797884561f * fused(0.044715f * x * x, x, x)));
}

INLINE void narrow(unit *row, long at, v16 x, int bf16)   /* elements `at` to `at` + 15 of a row of units */
{
    if (!bf16) {
        memcpy(row + at, &x, sizeof x);
        return;
    }
    uint16_t *out = (uint16_t *)row + at;
#if defined(__AVX512BF16__)
    _mm256_storeu_si256((__m256i *)out, (__m256i)_mm512_cvtneps_pbh((__m512)x));
#else
    u16 bits = (u16)x;
    bits = (bits + 0x7fff + ((bits >> 16) & 1)) >> 16;
    for (int i = 0; i < LANES; i++)
        out[i] = bits[i];
#endif
}

INLINE float first_of(unit x, int bf16) { x = bf16 ? x << 16 : x; float y; memcpy(&y, &x, 4); return y; }
INLINE float second_of(unit x) { x &= 0xffff0000u; float y; memcpy(&y, &x, 4); return y; }
INLINE long units_of(long elements, int bf16) { return bf16 ? (elements + 1) / 2 : elements; }
INLINE long padded(long n, long to) { return (n + to - 1) / to * to; }
