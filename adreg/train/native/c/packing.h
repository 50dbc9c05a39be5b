/* Matrices as the kernel wants them: tiles of 32 outputs, [units][32], a unit being two neighbouring elements of the sum. */

INLINE u16 wide_units(const half *p) { return (u16)_mm512_cvtepu16_epi32(_mm256_loadu_si256((const __m256i *)p)); }
INLINE v16 widened(const half *p) { return (v16)(wide_units(p) << 16); }
INLINE void narrowed(half *p, v16 x) { narrow((unit *)p, 0, x, 1); }
INLINE unit both(float x, float y)             /* two elements, rounded to the nearest, as one unit */
{
    __m128bh pair = _mm_cvtneps_pbh(_mm_set_ps(0, 0, y, x));
    unit u;
    memcpy(&u, &pair, sizeof u);
    return u;
}

INLINE void turn(__m512i r[16])                /* sixteen rows of sixteen units into columns */
{
    __m512i t[16];
    for (int i = 0; i < 8; i++) {
        t[2 * i] = _mm512_unpacklo_epi32(r[2 * i], r[2 * i + 1]);
        t[2 * i + 1] = _mm512_unpackhi_epi32(r[2 * i], r[2 * i + 1]);
    }
    for (int i = 0; i < 4; i++) {
        r[4 * i] = _mm512_unpacklo_epi64(t[4 * i], t[4 * i + 2]);
        r[4 * i + 1] = _mm512_unpackhi_epi64(t[4 * i], t[4 * i + 2]);
        r[4 * i + 2] = _mm512_unpacklo_epi64(t[4 * i + 1], t[4 * i + 3]);
        r[4 * i + 3] = _mm512_unpackhi_epi64(t[4 * i + 1], t[4 * i + 3]);
    }
    for (int i = 0; i < 4; i++) {
        t[i] = _mm512_shuffle_i32x4(r[i], r[i + 4], 0x88);
        t[i + 4] = _mm512_shuffle_i32x4(r[i], r[i + 4], 0xdd);
        t[i + 8] = _mm512_shuffle_i32x4(r[i + 8], r[i + 12], 0x88);
        t[i + 12] = _mm512_shuffle_i32x4(r[i + 8], r[i + 12], 0xdd);
    }
    for (int i = 0; i < 4; i++) {
        r[i] = _mm512_shuffle_i32x4(t[i], t[i + 8], 0x88);
        r[i + 4] = _mm512_shuffle_i32x4(t[i + 4], t[i + 12], 0x88);
        r[i + 8] = _mm512_shuffle_i32x4(t[i], t[i + 8], 0xdd);
        r[i + 12] = _mm512_shuffle_i32x4(t[i + 4], t[i + 12], 0xdd);
    }
}

/* A tile whose outputs are 32 rows of w, `pitch` elements apart; `units` is a multiple of 16. */
static void pack_rows(const half *w, long pitch, long units, unit *tile)
{
    for (long u = 0; u < units; u += LANES)
        for (int strip = 0; strip < TILE; strip += LANES) {
            __m512i r[LANES];
            for (int i = 0; i < LANES; i++)
                r[i] = _mm512_loadu_si512((const unit *)(w + (strip + i) * pitch) + u);
            turn(r);
            for (int i = 0; i < LANES; i++)
                _mm512_storeu_si512(tile + (u + i) * TILE + strip, r[i]);
        }
}

/* A tile whose outputs are 32 columns of w, the sum running down `depth` rows of it, an odd last one paired with zeros. */
static void pack_columns(const half *w, long pitch, long depth, unit *tile)
{
    for (long row = 0; row < depth; row += 2, w += 2 * pitch, tile += TILE)
        for (int strip = 0; strip < TILE; strip += LANES) {
            u16 low = wide_units(w + strip), high = row + 1 < depth ? wide_units(w + pitch + strip) : (u16){};
            u16 units = low | (high << 16);
            memcpy(tile + strip, &units, sizeof units);
        }
}

/* Tiles of an adapter's factors, rounded once. Ranks come in pairs: an odd last one with zeros. */

INLINE long even(long rank) { return (rank + 1) / 2 * 2; }

/* A [rank][wide] with ranks for outputs, the first of them at `lane` of tiles that other layers share. */
static void pack_a_inward(const float *a, long rank, long wide, unit *tiles, long lane)
{
    for (long r = 0; r < even(rank); r++) {
        unit *out = tiles + ((lane + r) / TILE * (wide / 2)) * TILE + (lane + r) % TILE;
        for (long u = 0; u < wide / 2; u++)
            out[u * TILE] = r < rank ? both(a[r * wide + 2 * u], a[r * wide + 2 * u + 1]) : 0;
    }
}

/* A with its columns for outputs and ranks for the sum, the first of them at unit `first` of `units`. */
static void pack_a_outward(const float *a, long rank, long wide, unit *tiles, long units, long first)
{
    for (long r = 0; r < rank; r += 2)
        for (long column = 0; column < wide; column += LANES) {
            half low[LANES], high[LANES];
            narrowed(low, load(a + r * wide + column));
            narrowed(high, r + 1 < rank ? load(a + (r + 1) * wide + column) : (v16){});
            u16 pairs = wide_units(low) | (wide_units(high) << 16);
            memcpy(tiles + (column / TILE * units + first + r / 2) * TILE + column % TILE, &pairs, sizeof pairs);
        }
}

/* scale B [wide][rank] with its rows for outputs and ranks for the sum. */
static void pack_b_outward(const float *b, long rank, long wide, float scale, unit *tiles)
{
    for (long o = 0; o < wide; o++)
        for (long r = 0; r < rank; r += 2)
            tiles[(o / TILE * (even(rank) / 2) + r / 2) * TILE + o % TILE] =
                both(scale * b[o * rank + r], r + 1 < rank ? scale * b[o * rank + r + 1] : 0);
}

/* scale B with ranks for outputs, the sum running down its rows. */
static void pack_b_inward(const float *b, long rank, long wide, float scale, unit *tiles)
{
    for (long o = 0; o < wide; o += 2)
        for (long r = 0; r < even(rank); r++)
            tiles[(r / TILE * (wide / 2) + o / 2) * TILE + r % TILE] =
                r < rank ? both(scale * b[o * rank + r], scale * b[(o + 1) * rank + r]) : 0;
}
