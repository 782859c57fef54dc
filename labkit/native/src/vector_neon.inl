// The vector operations of vector.inl for 64-bit ARM: sixteen lanes are four registers. Three instruction sets share this file:
// NEON alone, with the dot products of bytes (LK_DOTPROD), and with those of bf16 and the products of small matrices as well
// (LK_MATRIX: the extensions i8mm and bf16).

struct F16 { float32x4_t a, b, c, d; };
struct I16 { int32x4_t a, b, c, d; };
struct Bytes { uint8x16_t a, b, c, d; };
#define LK_EACH(f, x) {f((x).a), f((x).b), f((x).c), f((x).d)}
#define LK_EACH_OF_TWO(f, x, y) {f((x).a, (y).a), f((x).b, (y).b), f((x).c, (y).c), f((x).d, (y).d)}

LK_INLINE F16 f16_set(float x) { return {vdupq_n_f32(x), vdupq_n_f32(x), vdupq_n_f32(x), vdupq_n_f32(x)}; }
LK_INLINE F16 f16_zero() { return f16_set(0.0f); }
LK_INLINE F16 f16_load(const float *p) { return {vld1q_f32(p), vld1q_f32(p + 4), vld1q_f32(p + 8), vld1q_f32(p + 12)}; }
LK_INLINE void f16_store(float *p, F16 x) {
    vst1q_f32(p, x.a), vst1q_f32(p + 4, x.b), vst1q_f32(p + 8, x.c), vst1q_f32(p + 12, x.d);
}
LK_INLINE F16 f16_add(F16 x, F16 y) { return LK_EACH_OF_TWO(vaddq_f32, x, y); }
LK_INLINE F16 f16_mul(F16 x, F16 y) { return LK_EACH_OF_TWO(vmulq_f32, x, y); }
LK_INLINE F16 f16_div(F16 x, F16 y) { return LK_EACH_OF_TWO(vdivq_f32, x, y); }
LK_INLINE F16 f16_min(F16 x, F16 y) { return LK_EACH_OF_TWO(vminq_f32, x, y); } // NaN in x or y gives NaN
LK_INLINE F16 f16_max(F16 x, F16 y) { return LK_EACH_OF_TWO(vmaxq_f32, x, y); }
LK_INLINE F16 f16_fma(F16 x, F16 y, F16 z) {
    return {vfmaq_f32(z.a, x.a, y.a), vfmaq_f32(z.b, x.b, y.b), vfmaq_f32(z.c, x.c, y.c), vfmaq_f32(z.d, x.d, y.d)};
}
LK_INLINE float f16_sum(F16 x) { return vaddvq_f32(vaddq_f32(vaddq_f32(x.a, x.b), vaddq_f32(x.c, x.d))); }
LK_INLINE float f16_largest(F16 x) { return vmaxvq_f32(vmaxq_f32(vmaxq_f32(x.a, x.b), vmaxq_f32(x.c, x.d))); }
LK_INLINE F16 f16_round(F16 x) { return LK_EACH(vrndnq_f32, x); }
LK_INLINE float32x4_t scale_quarter(float32x4_t x, float32x4_t n) {
    int32x4_t exponent = vshlq_n_s32(vaddq_s32(vcvtq_s32_f32(n), vdupq_n_s32(127)), 23);
    return vmulq_f32(x, vreinterpretq_f32_s32(exponent));
}
LK_INLINE F16 f16_scale(F16 x, F16 n) { return LK_EACH_OF_TWO(scale_quarter, x, n); }

LK_INLINE float32x4_t quarter_of_bf16(const uint16_t *p) { return vreinterpretq_f32_u32(vshll_n_u16(vld1_u16(p), 16)); }
LK_INLINE float32x4_t quarter_of_half(const uint16_t *p) { return vcvt_f32_f16(vreinterpret_f16_u16(vld1_u16(p))); }
#define LK_EACH_FOUR_WORDS(f, p) {f(p), f((p) + 4), f((p) + 8), f((p) + 12)}
LK_INLINE F16 f16_from_bf16(const void *p) { return LK_EACH_FOUR_WORDS(quarter_of_bf16, (const uint16_t *)p); }
LK_INLINE F16 f16_from_half(const void *p) { return LK_EACH_FOUR_WORDS(quarter_of_half, (const uint16_t *)p); }

#if defined(LK_MATRIX)
LK_INLINE uint16x8_t bf16_of_two(float32x4_t x, float32x4_t y) {
    return vreinterpretq_u16_bf16(vcvtq_high_bf16_f32(vcvtq_low_bf16_f32(x), y));
}
#else
LK_INLINE uint16x4_t bf16_of_quarter(float32x4_t x) {
    uint32x4_t bits = vreinterpretq_u32_f32(x), last = vandq_u32(vshrq_n_u32(bits, 16), vdupq_n_u32(1));
    uint16x4_t rounded = vshrn_n_u32(vaddq_u32(bits, vaddq_u32(last, vdupq_n_u32(0x7fff))), 16);
    return vbsl_u16(vmovn_u32(vceqq_f32(x, x)), rounded, vdup_n_u16(0x7fc0));
}
LK_INLINE uint16x8_t bf16_of_two(float32x4_t x, float32x4_t y) { return vcombine_u16(bf16_of_quarter(x), bf16_of_quarter(y)); }
#endif
LK_INLINE void f16_to_bf16(F16 x, void *out) {
    uint16_t *words = (uint16_t *)out;
    vst1q_u16(words, bf16_of_two(x.a, x.b)), vst1q_u16(words + 8, bf16_of_two(x.c, x.d));
}

LK_INLINE I16 i16_set(int32_t x) { return {vdupq_n_s32(x), vdupq_n_s32(x), vdupq_n_s32(x), vdupq_n_s32(x)}; }
LK_INLINE I16 i16_add(I16 x, I16 y) { return LK_EACH_OF_TWO(vaddq_s32, x, y); }
LK_INLINE F16 i16_to_f16(I16 x) { return LK_EACH(vcvtq_f32_s32, x); }
LK_INLINE int32_t i16_sum(I16 x) { return vaddvq_s32(vaddq_s32(vaddq_s32(x.a, x.b), vaddq_s32(x.c, x.d))); }
LK_INLINE I16 round_to_bytes(F16 x, uint32_t *words) {
    I16 whole = LK_EACH(vcvtnq_s32_f32, x);
    int16x8_t low = vcombine_s16(vqmovn_s32(whole.a), vqmovn_s32(whole.b));
    int16x8_t high = vcombine_s16(vqmovn_s32(whole.c), vqmovn_s32(whole.d));
    vst1q_s8((int8_t *)words, vcombine_s8(vqmovn_s16(low), vqmovn_s16(high)));
    return whole;
}

LK_INLINE float32x4_t dot_bf16_quarter(float32x4_t acc, const uint32_t *w, uint32_t x) {
    uint32x4_t pairs = vld1q_u32(w);
#if defined(LK_MATRIX)
    return vbfdotq_f32(acc, vreinterpretq_bf16_u32(pairs), vreinterpretq_bf16_u32(vdupq_n_u32(x)));
#else
    uint32x4_t high = vdupq_n_u32(0xffff0000u);
    acc = vfmaq_f32(acc, vreinterpretq_f32_u32(vshlq_n_u32(pairs, 16)), vreinterpretq_f32_u32(vdupq_n_u32(x << 16)));
    return vfmaq_f32(acc, vreinterpretq_f32_u32(vandq_u32(pairs, high)), vreinterpretq_f32_u32(vandq_u32(vdupq_n_u32(x), high)));
#endif
}
LK_INLINE F16 dot_bf16(F16 acc, const void *w, uint32_t x) {
    const uint32_t *pairs = (const uint32_t *)w;
    return {dot_bf16_quarter(acc.a, pairs, x), dot_bf16_quarter(acc.b, pairs + 4, x), dot_bf16_quarter(acc.c, pairs + 8, x),
            dot_bf16_quarter(acc.d, pairs + 12, x)};
}

struct Fours { uint8x16x2_t v; };
LK_INLINE Fours fours_of(uint32_t first, uint32_t second) {
    uint32_t a = first & 0xffff, b = first >> 16, c = second & 0xffff, high_c = second << 16, high_d = second & 0xffff0000u;
    uint32_t pairs[8] = {first, a | high_c, a | high_d, b | high_c, b | high_d, c | high_d, 0, 0};
    return {{{vreinterpretq_u8_u32(vld1q_u32(pairs)), vreinterpretq_u8_u32(vld1q_u32(pairs + 4))}}};
}
LK_INLINE I16 codes_load(const uint32_t *p) {
    const int32_t *from = (const int32_t *)p;
    return {vld1q_s32(from), vld1q_s32(from + 4), vld1q_s32(from + 8), vld1q_s32(from + 12)};
}
LK_INLINE int32x4_t next_quarter(int32x4_t codes) { return vreinterpretq_s32_u32(vshrq_n_u32(vreinterpretq_u32_s32(codes), 4)); }
LK_INLINE I16 codes_next(I16 codes) { return LK_EACH(next_quarter, codes); }
LK_INLINE float32x4_t dot_sparse24_quarter(float32x4_t acc, const uint32_t *w, Fours x, int32x4_t codes) {
    uint32x4_t code = vandq_u32(vreinterpretq_u32_s32(codes), vdupq_n_u32(7)), weights = vld1q_u32(w);
    uint32x4_t bytes = vaddq_u32(vmulq_n_u32(code, 0x04040404u), vdupq_n_u32(0x03020100u)); // the four bytes of a pair
    uint32x4_t pairs = vreinterpretq_u32_u8(vqtbl2q_u8(x.v, vreinterpretq_u8_u32(bytes)));
#if defined(LK_MATRIX)
    return vbfdotq_f32(acc, vreinterpretq_bf16_u32(weights), vreinterpretq_bf16_u32(pairs));
#else
    uint32x4_t high = vdupq_n_u32(0xffff0000u);
    acc = vfmaq_f32(acc, vreinterpretq_f32_u32(vshlq_n_u32(weights, 16)), vreinterpretq_f32_u32(vshlq_n_u32(pairs, 16)));
    return vfmaq_f32(acc, vreinterpretq_f32_u32(vandq_u32(weights, high)), vreinterpretq_f32_u32(vandq_u32(pairs, high)));
#endif
}
LK_INLINE F16 dot_sparse24(F16 acc, const void *w, Fours x, I16 codes) {
    const uint32_t *p = (const uint32_t *)w;
    return {dot_sparse24_quarter(acc.a, p, x, codes.a), dot_sparse24_quarter(acc.b, p + 4, x, codes.b),
            dot_sparse24_quarter(acc.c, p + 8, x, codes.c), dot_sparse24_quarter(acc.d, p + 12, x, codes.d)};
}

LK_INLINE uint8x16_t low_nibbles(uint8x16_t b) { return vandq_u8(b, vdupq_n_u8(15)); }
LK_INLINE uint8x16_t high_nibbles(uint8x16_t b) { return vshrq_n_u8(b, 4); }
LK_INLINE Bytes bytes_load(const void *p) {
    const uint8_t *from = (const uint8_t *)p;
    return {vld1q_u8(from), vld1q_u8(from + 16), vld1q_u8(from + 32), vld1q_u8(from + 48)};
}
// Four bytes for each lane, as value + 128: the lane's first or second (`which` 0 or 1) two bytes in the places that its code
// names, and zeros.
LK_INLINE uint8x16_t expand_bytes_quarter(uint8x16_t pairs, uint8x16x2_t places, int32x4_t codes, uint32x4_t lane) {
    uint32x4_t code = vandq_u32(vreinterpretq_u32_s32(codes), vdupq_n_u32(7));
    uint32x4_t bytes = vaddq_u32(vmulq_n_u32(code, 0x04040404u), vdupq_n_u32(0x03020100u)); // the four bytes of a table entry
    uint8x16_t chosen = vorrq_u8(vqtbl2q_u8(places, vreinterpretq_u8_u32(bytes)), vreinterpretq_u8_u32(lane));
    return veorq_u8(vqtbl1q_u8(pairs, chosen), vdupq_n_u8(0x80));
}
LK_INLINE Bytes expand_bytes(Bytes pairs, I16 codes, int which) {
    // For each code, which of the two bytes become bytes 0 to 3; 0x80 is zero.
    const uint32_t table[8] = {0x80800100u, 0x80018000u, 0x01808000, 0x80010080u, 0x01800080, 0x01008080, 0, 0};
    const uint32_t lanes[4] = {0, 0x04040404, 0x08080808, 0x0c0c0c0c};
    uint8x16x2_t places = {{vreinterpretq_u8_u32(vld1q_u32(table)), vreinterpretq_u8_u32(vld1q_u32(table + 4))}};
    uint32x4_t lane = vorrq_u32(vld1q_u32(lanes), vdupq_n_u32(which ? 0x02020202 : 0));
    return {expand_bytes_quarter(pairs.a, places, codes.a, lane), expand_bytes_quarter(pairs.b, places, codes.b, lane),
            expand_bytes_quarter(pairs.c, places, codes.c, lane), expand_bytes_quarter(pairs.d, places, codes.d, lane)};
}
LK_INLINE Bytes bytes_low(Bytes b) { return LK_EACH(low_nibbles, b); }
LK_INLINE Bytes bytes_high(Bytes b) { return LK_EACH(high_nibbles, b); }

// The sum of four products of signed bytes, added to each lane.
LK_INLINE int32x4_t dot_signed(int32x4_t acc, int8x16_t w, int8x16_t x) {
#if defined(LK_DOTPROD)
    return vdotq_s32(acc, w, x);
#else
    // The sum of two products fits in 16 bits: 2 * 128 * 127 < 2^15, and -128 occurs only among the weights.
    int16x8_t low = vmull_s8(vget_low_s8(w), vget_low_s8(x)), high = vmull_high_s8(w, x);
    return vpadalq_s16(acc, vpaddq_s16(low, high));
#endif
}
// int4: the weights are stored as 0 to 15, which are the same numbers when signed.
LK_INLINE int32x4_t dot_int4_quarter(int32x4_t acc, uint8x16_t w, int8x16_t x) { return dot_signed(acc, vreinterpretq_s8_u8(w), x); }
#if defined(LK_MATRIX)
LK_INLINE int32x4_t dot_int8_quarter(int32x4_t acc, uint8x16_t w, int8x16_t x) { return vusdotq_s32(acc, w, x); }
#define LK_INT8_OFFSET 128
#else
LK_INLINE int32x4_t dot_int8_quarter(int32x4_t acc, uint8x16_t w, int8x16_t x) {
    return dot_signed(acc, vreinterpretq_s8_u8(veorq_u8(w, vdupq_n_u8(0x80))), x);
}
#define LK_INT8_OFFSET 0 // `dot_int8` removes the offset
#endif
#define LK_EACH_DOT(f, acc, w, x) {f((acc).a, (w).a, x), f((acc).b, (w).b, x), f((acc).c, (w).c, x), f((acc).d, (w).d, x)}
LK_INLINE I16 dot_int8(I16 acc, Bytes w, int32_t x) {
    int8x16_t inputs = vreinterpretq_s8_s32(vdupq_n_s32(x));
    return LK_EACH_DOT(dot_int8_quarter, acc, w, inputs);
}
LK_INLINE I16 dot_int4(I16 acc, Bytes w, int32_t x) {
    int8x16_t inputs = vreinterpretq_s8_s32(vdupq_n_s32(x));
    return LK_EACH_DOT(dot_int4_quarter, acc, w, inputs);
}

#if defined(LK_MATRIX)

#define LK_PAIRED_BF16 1 // attention multiplies pairs of bf16 (attention.inl)

// acc += the dot products of sixteen pairs at `x` with sixteen pairs at `y`.
LK_INLINE F16 dot_pairs(F16 acc, const void *x, const void *y) {
    const bfloat16_t *p = (const bfloat16_t *)x, *q = (const bfloat16_t *)y;
    return {vbfdotq_f32(acc.a, vld1q_bf16(p), vld1q_bf16(q)), vbfdotq_f32(acc.b, vld1q_bf16(p + 8), vld1q_bf16(q + 8)),
            vbfdotq_f32(acc.c, vld1q_bf16(p + 16), vld1q_bf16(q + 16)), vbfdotq_f32(acc.d, vld1q_bf16(p + 24), vld1q_bf16(q + 24))};
}
LK_INLINE float32x4_t sum_of_quarters(F16 x) { return vaddq_f32(vaddq_f32(x.a, x.b), vaddq_f32(x.c, x.d)); }
LK_INLINE void store_four_sums(F16 a, F16 b, F16 c, F16 d, float *to) {
    float32x4_t ab = vpaddq_f32(sum_of_quarters(a), sum_of_quarters(b)), cd = vpaddq_f32(sum_of_quarters(c), sum_of_quarters(d));
    vst1q_f32(to, vpaddq_f32(ab, cd));
}
LK_INLINE void add_pair_quarter(float32x4_t *low, float32x4_t *high, const uint16_t *even, const uint16_t *odd, bfloat16x8_t pair) {
    uint16x8_t e = vld1q_u16(even), o = vld1q_u16(odd);
    *low = vbfdotq_f32(*low, vreinterpretq_bf16_u16(vzip1q_u16(e, o)), pair);
    *high = vbfdotq_f32(*high, vreinterpretq_bf16_u16(vzip2q_u16(e, o)), pair);
}
LK_INLINE void add_pair(F16 *low, F16 *high, const void *even, const void *odd, uint32_t weights) {
    const uint16_t *e = (const uint16_t *)even, *o = (const uint16_t *)odd;
    bfloat16x8_t pair = vreinterpretq_bf16_u32(vdupq_n_u32(weights));
    add_pair_quarter(&low->a, &high->a, e, o, pair), add_pair_quarter(&low->b, &high->b, e + 8, o + 8, pair);
    add_pair_quarter(&low->c, &high->c, e + 16, o + 16, pair), add_pair_quarter(&low->d, &high->d, e + 24, o + 24, pair);
}

// One instruction multiplies a matrix of two outputs with one of two rows of inputs. A step of a panel holds four outputs in a
// register; two steps, interleaved, are two such matrices.
struct Matrices { uint32x4_t low, high; };
LK_INLINE Matrices interleave(uint32x4_t first, uint32x4_t second) { return {vzip1q_u32(first, second), vzip2q_u32(first, second)}; }
// Outputs 4 q to 4 q + 3 of two neighbouring steps.
LK_INLINE Matrices two_steps(const void *w, int q) {
    const uint32_t *from = (const uint32_t *)w;
    return interleave(vld1q_u32(from + 4 * q), vld1q_u32(from + 16 + 4 * q));
}
// The same from a block of int4 weights, which holds two steps.
LK_INLINE Matrices two_steps_of_int4(const void *w, int q) {
    uint8x16_t both = vld1q_u8((const uint8_t *)w + 16 * q);
    return interleave(vreinterpretq_u32_u8(low_nibbles(both)), vreinterpretq_u32_u8(high_nibbles(both)));
}
// Two steps of two neighbouring rows of a tile with `rows` rows.
LK_INLINE uint32x4_t two_rows(const void *x, int rows) {
    const uint32_t *from = (const uint32_t *)x;
    uint32x2_t none = vdup_n_u32(0);
    return vzip1q_u32(vcombine_u32(vld1_u32(from), none), vcombine_u32(vld1_u32(from + rows), none));
}

// Sums of four outputs for two rows; the rows alternate.
struct F4x2 { float32x4_t low, high; };
struct I4x2 { int32x4_t low, high; };
LK_INLINE F4x2 multiply_bf16(F4x2 acc, Matrices w, uint32x4_t x) {
    bfloat16x8_t inputs = vreinterpretq_bf16_u32(x);
    return {vbfmmlaq_f32(acc.low, vreinterpretq_bf16_u32(w.low), inputs), vbfmmlaq_f32(acc.high, vreinterpretq_bf16_u32(w.high), inputs)};
}
LK_INLINE I4x2 multiply_int8(I4x2 acc, Matrices w, uint32x4_t x) {
    int8x16_t inputs = vreinterpretq_s8_u32(x);
    return {vusmmlaq_s32(acc.low, vreinterpretq_u8_u32(w.low), inputs), vusmmlaq_s32(acc.high, vreinterpretq_u8_u32(w.high), inputs)};
}
LK_INLINE I4x2 multiply_int4(I4x2 acc, Matrices w, uint32x4_t x) {
    int8x16_t inputs = vreinterpretq_s8_u32(x);
    return {vmmlaq_s32(acc.low, vreinterpretq_s8_u32(w.low), inputs), vmmlaq_s32(acc.high, vreinterpretq_s8_u32(w.high), inputs)};
}
LK_INLINE I4x2 i4x2_set(int32_t first, int32_t second) {
    int32x4_t both = vzip1q_s32(vdupq_n_s32(first), vdupq_n_s32(second));
    return {both, both};
}
LK_INLINE float32x4_t first_row(F4x2 x) { return vuzp1q_f32(x.low, x.high); }
LK_INLINE float32x4_t second_row(F4x2 x) { return vuzp2q_f32(x.low, x.high); }
LK_INLINE F4x2 to_floats(I4x2 x) { return {vcvtq_f32_s32(x.low), vcvtq_f32_s32(x.high)}; }
// The sixteen outputs of each of the two rows.
LK_INLINE F16 first_rows(F4x2 a, F4x2 b, F4x2 c, F4x2 d) { return {first_row(a), first_row(b), first_row(c), first_row(d)}; }
LK_INLINE F16 second_rows(F4x2 a, F4x2 b, F4x2 c, F4x2 d) { return {second_row(a), second_row(b), second_row(c), second_row(d)}; }

#endif
