// The few vector operations that the kernels use, with sixteen lanes on every instruction set. This file is included once per
// instruction set, inside that set's namespace. The C++ library is not used here: the linker could take its inline functions
// from a file compiled for another instruction set.

#if defined(LK_AVX512) || defined(LK_AVX2)
// For each code of a 2:4 sparse weight, which of its two bytes become bytes 0 to 3; 0x80 is zero.
LK_INLINE __m256i byte_places() {
    return _mm256_setr_epi32((int)0x80800100u, (int)0x80018000u, 0x01808000, (int)0x80010080u, 0x01800080, 0x01008080, 0, 0);
}
#endif

#if defined(LK_AVX512)

typedef __m512 F16;
typedef __m512i I16;
LK_INLINE F16 f16_zero() { return _mm512_setzero_ps(); }
LK_INLINE F16 f16_set(float x) { return _mm512_set1_ps(x); }
LK_INLINE F16 f16_load(const float *p) { return _mm512_loadu_ps(p); }
LK_INLINE void f16_store(float *p, F16 x) { _mm512_storeu_ps(p, x); }
LK_INLINE F16 f16_add(F16 a, F16 b) { return _mm512_add_ps(a, b); }
LK_INLINE F16 f16_mul(F16 a, F16 b) { return _mm512_mul_ps(a, b); }
LK_INLINE F16 f16_div(F16 a, F16 b) { return _mm512_div_ps(a, b); }
LK_INLINE F16 f16_min(F16 a, F16 b) { return _mm512_min_ps(a, b); }
LK_INLINE F16 f16_max(F16 a, F16 b) { return _mm512_max_ps(a, b); }
LK_INLINE F16 f16_fma(F16 a, F16 b, F16 c) { return _mm512_fmadd_ps(a, b, c); }
LK_INLINE float f16_sum(F16 x) { return _mm512_reduce_add_ps(x); }
LK_INLINE float f16_largest(F16 x) { return _mm512_reduce_max_ps(x); }
LK_INLINE F16 f16_round(F16 x) { return _mm512_roundscale_ps(x, 8); }
// x * 2^n for an integer n of at most 127.
LK_INLINE F16 f16_scale(F16 x, F16 n) { return _mm512_scalef_ps(x, n); }
LK_INLINE void f16_to_bf16(F16 x, void *out) {
#if defined(LK_AVX512_BF16)
    _mm256_storeu_si256((__m256i *)out, (__m256i)_mm512_cvtneps_pbh(x));
#else
    __m512i bits = _mm512_castps_si512(x), last = _mm512_and_si512(_mm512_srli_epi32(bits, 16), _mm512_set1_epi32(1));
    __m512i rounded = _mm512_srli_epi32(_mm512_add_epi32(bits, _mm512_add_epi32(last, _mm512_set1_epi32(0x7fff))), 16);
    rounded = _mm512_mask_mov_epi32(rounded, _mm512_cmp_ps_mask(x, x, _CMP_UNORD_Q), _mm512_set1_epi32(0x7fc0));
    _mm256_storeu_si256((__m256i *)out, _mm512_cvtepi32_epi16(rounded));
#endif
}
LK_INLINE F16 f16_from_half(const void *p) { return _mm512_cvtph_ps(_mm256_loadu_si256((const __m256i *)p)); }
LK_INLINE F16 f16_from_bf16(const void *p) {
    return _mm512_castsi512_ps(_mm512_slli_epi32(_mm512_cvtepu16_epi32(_mm256_loadu_si256((const __m256i *)p)), 16));
}
LK_INLINE I16 i16_set(int32_t x) { return _mm512_set1_epi32(x); }
LK_INLINE I16 i16_add(I16 a, I16 b) { return _mm512_add_epi32(a, b); }
LK_INLINE F16 i16_to_f16(I16 x) { return _mm512_cvtepi32_ps(x); }

LK_INLINE int32_t i16_sum(I16 x) { return _mm512_reduce_add_epi32(x); }
// Rounds sixteen numbers of at most 127 to the nearest integers, stores them as bytes and returns them as integers.
LK_INLINE I16 round_to_bytes(F16 x, uint32_t *words) {
    I16 whole = _mm512_cvtps_epi32(x);
    _mm_storeu_si128((__m128i *)words, _mm512_cvtepi32_epi8(whole));
    return whole;
}

// acc += the dot product of each lane's two bf16 weights with the pair x.
LK_INLINE F16 dot_bf16(F16 acc, const void *w, uint32_t x) {
#if defined(LK_AVX512_BF16)
    return _mm512_dpbf16_ps(acc, (__m512bh)_mm512_loadu_si512(w), (__m512bh)_mm512_set1_epi32((int)x));
#else
    __m512i pair = _mm512_loadu_si512(w);
    __m512 even = _mm512_castsi512_ps(_mm512_slli_epi32(pair, 16));
    __m512 odd = _mm512_castsi512_ps(_mm512_and_si512(pair, _mm512_set1_epi32((int)0xffff0000u)));
    acc = _mm512_fmadd_ps(even, _mm512_castsi512_ps(_mm512_set1_epi32((int)(x << 16))), acc);
    return _mm512_fmadd_ps(odd, _mm512_castsi512_ps(_mm512_set1_epi32((int)(x & 0xffff0000u))), acc);
#endif
}

#if defined(LK_AVX512_BF16)
#define LK_PAIRED_BF16 1 // attention multiplies pairs of bf16 (attention.inl)

// acc += the dot products of sixteen pairs at `x` with sixteen pairs at `y`.
LK_INLINE F16 dot_pairs(F16 acc, const void *x, const void *y) {
    return _mm512_dpbf16_ps(acc, (__m512bh)_mm512_loadu_si512(x), (__m512bh)_mm512_loadu_si512(y));
}
// Stores the sums of the lanes of four vectors.
LK_INLINE void store_four_sums(F16 a, F16 b, F16 c, F16 d, float *to) {
    __m512 ab = _mm512_add_ps(_mm512_unpacklo_ps(a, b), _mm512_unpackhi_ps(a, b)); // each quarter is a b a b
    __m512 cd = _mm512_add_ps(_mm512_unpacklo_ps(c, d), _mm512_unpackhi_ps(c, d));
    __m512 all = _mm512_add_ps(_mm512_shuffle_ps(ab, cd, 0x44), _mm512_shuffle_ps(ab, cd, 0xee)); // a b c d
    __m256 half = _mm256_add_ps(_mm512_castps512_ps256(all), _mm512_extractf32x8_ps(all, 1));
    _mm_storeu_ps(to, _mm_add_ps(_mm256_castps256_ps128(half), _mm256_extractf128_ps(half, 1)));
}
// Adds 32 values of an even position and of the odd one after it, times their two weights. `low` gets the values 0-3, 8-11,
// 16-19 and 24-27, `high` the others.
LK_INLINE void add_pair(F16 *low, F16 *high, const void *even, const void *odd, uint32_t weights) {
    __m512i e = _mm512_loadu_si512(even), o = _mm512_loadu_si512(odd);
    __m512bh pair = (__m512bh)_mm512_set1_epi32((int)weights);
    *low = _mm512_dpbf16_ps(*low, (__m512bh)_mm512_unpacklo_epi16(e, o), pair);
    *high = _mm512_dpbf16_ps(*high, (__m512bh)_mm512_unpackhi_epi16(e, o), pair);
}
#endif

// acc += the dot product of each lane's four unsigned weights with the four signed inputs x.
struct Bytes { __m512i v; };
LK_INLINE Bytes bytes_load(const void *p) { return {_mm512_loadu_si512(p)}; }
LK_INLINE Bytes bytes_low(Bytes b) { return {_mm512_and_si512(b.v, _mm512_set1_epi8(15))}; }
LK_INLINE Bytes bytes_high(Bytes b) { return {_mm512_and_si512(_mm512_srli_epi16(b.v, 4), _mm512_set1_epi8(15))}; }
LK_INLINE I16 dot_int8(I16 acc, Bytes w, int32_t x) { return _mm512_dpbusd_epi32(acc, w.v, _mm512_set1_epi32(x)); }
LK_INLINE I16 dot_int4(I16 acc, Bytes w, int32_t x) { return dot_int8(acc, w, x); }
#define LK_INT8_OFFSET 128 // `dot_int8` multiplies weights stored as value + offset; sums start at a number that cancels it

// The six pairs of four bf16 inputs, in the order of the codes of a 2:4 sparse weight, from inputs 0 and 1 and inputs 2 and 3.
struct Fours { __m512i v; };
LK_INLINE Fours fours_of(uint32_t first, uint32_t second) {
    __m512i all = _mm512_mask_set1_epi32(_mm512_set1_epi32((int)first), 0xaaaa, (int)second);
    __m512i order = _mm512_broadcast_i64x4(_mm256_setr_epi32(0x03020100, 0x05040100, 0x07060100, 0x05040302, // 01 02 03 12
                                                             0x07060302, 0x07060504, 0x07060504, 0x07060504)); // 13 23
    return {_mm512_shuffle_epi8(all, order)};
}
// Sixteen words of eight codes each; the codes of the next four inputs are shifted into the lowest bits.
LK_INLINE I16 codes_load(const uint32_t *p) { return _mm512_loadu_si512(p); }
LK_INLINE I16 codes_next(I16 codes) { return _mm512_srli_epi32(codes, 4); }
// acc += the dot product of each lane's two weights with the pair of inputs that the lowest code names. Codes are below 8.
LK_INLINE F16 dot_sparse24(F16 acc, const void *w, Fours x, I16 codes) {
    __m512i pairs = _mm512_permutexvar_epi32(codes, x.v);
#if defined(LK_AVX512_BF16)
    return _mm512_dpbf16_ps(acc, (__m512bh)_mm512_loadu_si512(w), (__m512bh)pairs);
#else
    __m512i weights = _mm512_loadu_si512(w), high = _mm512_set1_epi32((int)0xffff0000u);
    acc = _mm512_fmadd_ps(_mm512_castsi512_ps(_mm512_slli_epi32(weights, 16)), _mm512_castsi512_ps(_mm512_slli_epi32(pairs, 16)), acc);
    return _mm512_fmadd_ps(_mm512_castsi512_ps(_mm512_and_si512(weights, high)), _mm512_castsi512_ps(_mm512_and_si512(pairs, high)), acc);
#endif
}

#define LK_EXPANDS 1 // for many rows of inputs, the two weights of each lane are put into their places among zeros
struct Pairs { __m512i v; };
LK_INLINE Pairs expand(const void *w, I16 codes, __m256i controls) { // bytes of a pair's weights; 0x80 makes a zero
    __m512i chosen = _mm512_permutexvar_epi32(codes, _mm512_broadcast_i64x4(controls));
    __m512i lane = _mm512_broadcast_i32x4(_mm_setr_epi32(0, 0x04040404, 0x08080808, 0x0c0c0c0c));
    return {_mm512_shuffle_epi8(_mm512_loadu_si512(w), _mm512_or_si512(chosen, lane))};
}
// Four bytes for each lane, as value + 128: the lane's first or second (`which` 0 or 1) two bytes in the places that its code
// names, and zeros.
LK_INLINE Bytes expand_bytes(Bytes pairs, I16 codes, int which) {
    __m512i chosen = _mm512_permutexvar_epi32(codes, _mm512_broadcast_i64x4(byte_places()));
    __m512i lane = _mm512_broadcast_i32x4(_mm_setr_epi32(0, 0x04040404, 0x08080808, 0x0c0c0c0c));
    if (which) lane = _mm512_or_si512(lane, _mm512_set1_epi8(2));
    return {_mm512_xor_si512(_mm512_shuffle_epi8(pairs.v, _mm512_or_si512(chosen, lane)), _mm512_set1_epi8((char)0x80))};
}
LK_INLINE F16 dot_expanded(F16 acc, Pairs w, uint32_t x) {
#if defined(LK_AVX512_BF16)
    return _mm512_dpbf16_ps(acc, (__m512bh)w.v, (__m512bh)_mm512_set1_epi32((int)x));
#else
    __m512i high = _mm512_set1_epi32((int)0xffff0000u);
    acc = _mm512_fmadd_ps(_mm512_castsi512_ps(_mm512_slli_epi32(w.v, 16)), _mm512_castsi512_ps(_mm512_set1_epi32((int)(x << 16))), acc);
    return _mm512_fmadd_ps(_mm512_castsi512_ps(_mm512_and_si512(w.v, high)), _mm512_castsi512_ps(_mm512_set1_epi32((int)(x & 0xffff0000u))), acc);
#endif
}

#elif defined(LK_AVX2)

struct F16 { __m256 a, b; };
struct I16 { __m256i a, b; };
LK_INLINE F16 f16_set(float x) { return {_mm256_set1_ps(x), _mm256_set1_ps(x)}; }
LK_INLINE F16 f16_zero() { return f16_set(0.0f); }
LK_INLINE F16 f16_load(const float *p) { return {_mm256_loadu_ps(p), _mm256_loadu_ps(p + 8)}; }
LK_INLINE void f16_store(float *p, F16 x) { _mm256_storeu_ps(p, x.a), _mm256_storeu_ps(p + 8, x.b); }
LK_INLINE F16 f16_add(F16 a, F16 b) { return {_mm256_add_ps(a.a, b.a), _mm256_add_ps(a.b, b.b)}; }
LK_INLINE F16 f16_mul(F16 a, F16 b) { return {_mm256_mul_ps(a.a, b.a), _mm256_mul_ps(a.b, b.b)}; }
LK_INLINE F16 f16_div(F16 a, F16 b) { return {_mm256_div_ps(a.a, b.a), _mm256_div_ps(a.b, b.b)}; }
LK_INLINE F16 f16_min(F16 a, F16 b) { return {_mm256_min_ps(a.a, b.a), _mm256_min_ps(a.b, b.b)}; }
LK_INLINE F16 f16_max(F16 a, F16 b) { return {_mm256_max_ps(a.a, b.a), _mm256_max_ps(a.b, b.b)}; }
LK_INLINE F16 f16_fma(F16 a, F16 b, F16 c) { return {_mm256_fmadd_ps(a.a, b.a, c.a), _mm256_fmadd_ps(a.b, b.b, c.b)}; }
LK_INLINE F16 f16_round(F16 x) { return {_mm256_round_ps(x.a, 8), _mm256_round_ps(x.b, 8)}; }
LK_INLINE __m256 scale_half(__m256 x, __m256 n) {
    __m256i exponent = _mm256_slli_epi32(_mm256_add_epi32(_mm256_cvtps_epi32(n), _mm256_set1_epi32(127)), 23);
    return _mm256_mul_ps(x, _mm256_castsi256_ps(exponent));
}
LK_INLINE F16 f16_scale(F16 x, F16 n) { return {scale_half(x.a, n.a), scale_half(x.b, n.b)}; }
LK_INLINE __m256i bf16_of_half(__m256 x) { // results in the lower half of each lane
    __m256i bits = _mm256_castps_si256(x), last = _mm256_and_si256(_mm256_srli_epi32(bits, 16), _mm256_set1_epi32(1));
    __m256i rounded = _mm256_srli_epi32(_mm256_add_epi32(bits, _mm256_add_epi32(last, _mm256_set1_epi32(0x7fff))), 16);
    return _mm256_blendv_epi8(rounded, _mm256_set1_epi32(0x7fc0), _mm256_castps_si256(_mm256_cmp_ps(x, x, _CMP_UNORD_Q)));
}
LK_INLINE void f16_to_bf16(F16 x, void *out) {
    __m256i words = _mm256_packus_epi32(bf16_of_half(x.a), bf16_of_half(x.b));
    _mm256_storeu_si256((__m256i *)out, _mm256_permute4x64_epi64(words, 0xd8));
}
LK_INLINE float f16_largest(F16 x) {
    __m256 m = _mm256_max_ps(x.a, x.b);
    __m128 q = _mm_max_ps(_mm256_castps256_ps128(m), _mm256_extractf128_ps(m, 1));
    q = _mm_max_ps(q, _mm_movehl_ps(q, q));
    return _mm_cvtss_f32(_mm_max_ss(q, _mm_shuffle_ps(q, q, 1)));
}
LK_INLINE float f16_sum(F16 x) {
    __m256 s = _mm256_add_ps(x.a, x.b);
    __m128 q = _mm_add_ps(_mm256_castps256_ps128(s), _mm256_extractf128_ps(s, 1));
    q = _mm_add_ps(q, _mm_movehl_ps(q, q));
    return _mm_cvtss_f32(_mm_add_ss(q, _mm_shuffle_ps(q, q, 1)));
}
LK_INLINE F16 f16_from_half(const void *p) {
    return {_mm256_cvtph_ps(_mm_loadu_si128((const __m128i *)p)), _mm256_cvtph_ps(_mm_loadu_si128((const __m128i *)p + 1))};
}
LK_INLINE __m256 half_of_bf16(const void *p) {
    return _mm256_castsi256_ps(_mm256_slli_epi32(_mm256_cvtepu16_epi32(_mm_loadu_si128((const __m128i *)p)), 16));
}
LK_INLINE F16 f16_from_bf16(const void *p) { return {half_of_bf16(p), half_of_bf16((const __m128i *)p + 1)}; }
LK_INLINE I16 i16_set(int32_t x) { return {_mm256_set1_epi32(x), _mm256_set1_epi32(x)}; }
LK_INLINE I16 i16_add(I16 a, I16 b) { return {_mm256_add_epi32(a.a, b.a), _mm256_add_epi32(a.b, b.b)}; }
LK_INLINE F16 i16_to_f16(I16 x) { return {_mm256_cvtepi32_ps(x.a), _mm256_cvtepi32_ps(x.b)}; }

LK_INLINE int32_t i16_sum(I16 x) {
    __m256i s = _mm256_add_epi32(x.a, x.b);
    __m128i q = _mm_add_epi32(_mm256_castsi256_si128(s), _mm256_extracti128_si256(s, 1));
    q = _mm_add_epi32(q, _mm_shuffle_epi32(q, 0x4e));
    return _mm_cvtsi128_si32(_mm_add_epi32(q, _mm_shuffle_epi32(q, 0xb1)));
}
LK_INLINE I16 round_to_bytes(F16 x, uint32_t *words) {
    I16 whole = {_mm256_cvtps_epi32(x.a), _mm256_cvtps_epi32(x.b)};
    __m256i shorts = _mm256_permute4x64_epi64(_mm256_packs_epi32(whole.a, whole.b), 0xd8);
    _mm_storeu_si128((__m128i *)words, _mm_packs_epi16(_mm256_castsi256_si128(shorts), _mm256_extracti128_si256(shorts, 1)));
    return whole;
}

LK_INLINE __m256 dot_bf16_half(__m256 acc, const void *w, uint32_t x) {
    __m256i pair = _mm256_loadu_si256((const __m256i *)w);
    __m256 even = _mm256_castsi256_ps(_mm256_slli_epi32(pair, 16));
    __m256 odd = _mm256_castsi256_ps(_mm256_and_si256(pair, _mm256_set1_epi32((int)0xffff0000u)));
    acc = _mm256_fmadd_ps(even, _mm256_castsi256_ps(_mm256_set1_epi32((int)(x << 16))), acc);
    return _mm256_fmadd_ps(odd, _mm256_castsi256_ps(_mm256_set1_epi32((int)(x & 0xffff0000u))), acc);
}
LK_INLINE F16 dot_bf16(F16 acc, const void *w, uint32_t x) {
    return {dot_bf16_half(acc.a, w, x), dot_bf16_half(acc.b, (const char *)w + 32, x)};
}

struct Fours { __m256i v; };
LK_INLINE Fours fours_of(uint32_t first, uint32_t second) {
    __m256i order = _mm256_setr_epi32(0x03020100, 0x05040100, 0x07060100, 0x05040302, 0x07060302, 0x07060504, 0x07060504, 0x07060504);
    return {_mm256_shuffle_epi8(_mm256_set1_epi64x((long long)((uint64_t)second << 32 | first)), order)};
}
LK_INLINE I16 codes_load(const uint32_t *p) {
    return {_mm256_loadu_si256((const __m256i *)p), _mm256_loadu_si256((const __m256i *)p + 1)};
}
LK_INLINE I16 codes_next(I16 codes) { return {_mm256_srli_epi32(codes.a, 4), _mm256_srli_epi32(codes.b, 4)}; }
LK_INLINE __m256 dot_sparse24_half(__m256 acc, const void *w, Fours x, __m256i codes) {
    __m256i weights = _mm256_loadu_si256((const __m256i *)w), high = _mm256_set1_epi32((int)0xffff0000u);
    __m256i pairs = _mm256_permutevar8x32_epi32(x.v, codes); // reads the three lowest bits
    acc = _mm256_fmadd_ps(_mm256_castsi256_ps(_mm256_slli_epi32(weights, 16)), _mm256_castsi256_ps(_mm256_slli_epi32(pairs, 16)), acc);
    return _mm256_fmadd_ps(_mm256_castsi256_ps(_mm256_and_si256(weights, high)), _mm256_castsi256_ps(_mm256_and_si256(pairs, high)), acc);
}
LK_INLINE F16 dot_sparse24(F16 acc, const void *w, Fours x, I16 codes) {
    return {dot_sparse24_half(acc.a, w, x, codes.a), dot_sparse24_half(acc.b, (const char *)w + 32, x, codes.b)};
}

#define LK_EXPANDS 1
struct Pairs { __m256i a, b; };
LK_INLINE __m256i expand_half(const void *w, __m256i codes, __m256i controls) {
    __m256i lane = _mm256_broadcastsi128_si256(_mm_setr_epi32(0, 0x04040404, 0x08080808, 0x0c0c0c0c));
    __m256i chosen = _mm256_or_si256(_mm256_permutevar8x32_epi32(controls, codes), lane);
    return _mm256_shuffle_epi8(_mm256_loadu_si256((const __m256i *)w), chosen);
}
LK_INLINE Pairs expand(const void *w, I16 codes, __m256i controls) {
    return {expand_half(w, codes.a, controls), expand_half((const char *)w + 32, codes.b, controls)};
}
LK_INLINE __m256 dot_expanded_half(__m256 acc, __m256i w, uint32_t x) {
    __m256i high = _mm256_set1_epi32((int)0xffff0000u);
    acc = _mm256_fmadd_ps(_mm256_castsi256_ps(_mm256_slli_epi32(w, 16)), _mm256_castsi256_ps(_mm256_set1_epi32((int)(x << 16))), acc);
    return _mm256_fmadd_ps(_mm256_castsi256_ps(_mm256_and_si256(w, high)), _mm256_castsi256_ps(_mm256_set1_epi32((int)(x & 0xffff0000u))), acc);
}
LK_INLINE F16 dot_expanded(F16 acc, Pairs w, uint32_t x) { return {dot_expanded_half(acc.a, w.a, x), dot_expanded_half(acc.b, w.b, x)}; }

struct Bytes { __m256i a, b; };
LK_INLINE Bytes bytes_load(const void *p) {
    return {_mm256_loadu_si256((const __m256i *)p), _mm256_loadu_si256((const __m256i *)p + 1)};
}
LK_INLINE __m256i expand_bytes_half(__m256i pairs, __m256i codes, int which) {
    __m256i lane = _mm256_broadcastsi128_si256(_mm_setr_epi32(0, 0x04040404, 0x08080808, 0x0c0c0c0c));
    if (which) lane = _mm256_or_si256(lane, _mm256_set1_epi8(2));
    __m256i chosen = _mm256_or_si256(_mm256_permutevar8x32_epi32(byte_places(), codes), lane);
    return _mm256_xor_si256(_mm256_shuffle_epi8(pairs, chosen), _mm256_set1_epi8((char)0x80));
}
LK_INLINE Bytes expand_bytes(Bytes pairs, I16 codes, int which) {
    return {expand_bytes_half(pairs.a, codes.a, which), expand_bytes_half(pairs.b, codes.b, which)};
}
LK_INLINE Bytes bytes_low(Bytes b) {
    __m256i mask = _mm256_set1_epi8(15);
    return {_mm256_and_si256(b.a, mask), _mm256_and_si256(b.b, mask)};
}
LK_INLINE Bytes bytes_high(Bytes b) {
    __m256i mask = _mm256_set1_epi8(15);
    return {_mm256_and_si256(_mm256_srli_epi16(b.a, 4), mask), _mm256_and_si256(_mm256_srli_epi16(b.b, 4), mask)};
}
LK_INLINE __m256i pairs_to_int32(__m256i acc, __m256i pairs) {
    return _mm256_add_epi32(acc, _mm256_madd_epi16(pairs, _mm256_set1_epi16(1)));
}
// maddubs adds two products in 16 bits and saturates: 15 * 127 * 2 fits, 255 * 127 * 2 does not. Full bytes are passed as |w| *
// (x with the sign of w): |w| is at most 128, which fits an unsigned byte, and x is at most 127 in size.
LK_INLINE I16 dot_int4(I16 acc, Bytes w, int32_t x) {
    __m256i inputs = _mm256_set1_epi32(x);
    return {pairs_to_int32(acc.a, _mm256_maddubs_epi16(w.a, inputs)), pairs_to_int32(acc.b, _mm256_maddubs_epi16(w.b, inputs))};
}
LK_INLINE __m256i dot_int8_half(__m256i acc, __m256i w, __m256i x) {
    __m256i value = _mm256_xor_si256(w, _mm256_set1_epi8((char)0x80));
    return pairs_to_int32(acc, _mm256_maddubs_epi16(_mm256_abs_epi8(value), _mm256_sign_epi8(x, value)));
}
LK_INLINE I16 dot_int8(I16 acc, Bytes w, int32_t x) {
    __m256i inputs = _mm256_set1_epi32(x);
    return {dot_int8_half(acc.a, w.a, inputs), dot_int8_half(acc.b, w.b, inputs)};
}
#define LK_INT8_OFFSET 0 // `dot_int8` removes the offset

#elif defined(LK_NEON)

#include "vector_neon.inl"

#else

struct F16 { float v[16]; };
struct I16 { int32_t v[16]; };
#define LK_LANES(i) for (int i = 0; i < 16; i++)
LK_INLINE float word_to_f32(uint32_t bits) {
    float x;
    __builtin_memcpy(&x, &bits, 4);
    return x;
}
LK_INLINE F16 f16_set(float x) { F16 r; LK_LANES(i) r.v[i] = x; return r; }
LK_INLINE F16 f16_zero() { return f16_set(0.0f); }
LK_INLINE F16 f16_load(const float *p) { F16 r; LK_LANES(i) r.v[i] = p[i]; return r; }
LK_INLINE void f16_store(float *p, F16 x) { LK_LANES(i) p[i] = x.v[i]; }
LK_INLINE F16 f16_add(F16 a, F16 b) { LK_LANES(i) a.v[i] += b.v[i]; return a; }
LK_INLINE F16 f16_mul(F16 a, F16 b) { LK_LANES(i) a.v[i] *= b.v[i]; return a; }
LK_INLINE F16 f16_fma(F16 a, F16 b, F16 c) { LK_LANES(i) c.v[i] += a.v[i] * b.v[i]; return c; }
LK_INLINE F16 f16_div(F16 a, F16 b) { LK_LANES(i) a.v[i] /= b.v[i]; return a; }
LK_INLINE F16 f16_min(F16 a, F16 b) { LK_LANES(i) a.v[i] = a.v[i] < b.v[i] ? a.v[i] : b.v[i]; return a; }
LK_INLINE F16 f16_max(F16 a, F16 b) { LK_LANES(i) a.v[i] = a.v[i] > b.v[i] ? a.v[i] : b.v[i]; return a; }
LK_INLINE float f16_sum(F16 x) { float s = 0; LK_LANES(i) s += x.v[i]; return s; }
LK_INLINE float f16_largest(F16 x) { float m = x.v[0]; LK_LANES(i) m = x.v[i] > m ? x.v[i] : m; return m; }
LK_INLINE F16 f16_round(F16 x) { LK_LANES(i) x.v[i] = (x.v[i] + 12582912.0f) - 12582912.0f; return x; } // 1.5 * 2^23
LK_INLINE F16 f16_scale(F16 x, F16 n) {
    LK_LANES(i) x.v[i] *= word_to_f32((uint32_t)((int32_t)n.v[i] + 127) << 23);
    return x;
}
LK_INLINE void f16_to_bf16(F16 x, void *out) {
    uint16_t words[16];
    LK_LANES(i) {
        uint32_t bits;
        __builtin_memcpy(&bits, &x.v[i], 4);
        words[i] = (uint16_t)(x.v[i] == x.v[i] ? (bits + 0x7fff + ((bits >> 16) & 1)) >> 16 : 0x7fc0);
    }
    __builtin_memcpy(out, words, sizeof words);
}
LK_INLINE F16 f16_from_bf16(const void *p) {
    const uint16_t *words = (const uint16_t *)p;
    F16 r;
    LK_LANES(i) r.v[i] = word_to_f32((uint32_t)words[i] << 16);
    return r;
}
LK_INLINE F16 f16_from_half(const void *p) {
    const uint16_t *words = (const uint16_t *)p;
    F16 r;
    LK_LANES(i) {
        // Shift exponent and fraction into place and scale by 2^112. This method is correct for subnormals; infinities do not
        // occur.
        uint32_t magnitude = (uint32_t)(words[i] & 0x7fff) << 13;
        float x = word_to_f32(magnitude) * 5.192296858534828e33f;
        r.v[i] = words[i] & 0x8000 ? -x : x;
    }
    return r;
}
LK_INLINE I16 i16_set(int32_t x) { I16 r; LK_LANES(i) r.v[i] = x; return r; }
LK_INLINE I16 i16_add(I16 a, I16 b) { LK_LANES(i) a.v[i] += b.v[i]; return a; }
LK_INLINE F16 i16_to_f16(I16 x) { F16 r; LK_LANES(i) r.v[i] = (float)x.v[i]; return r; }
LK_INLINE int32_t i16_sum(I16 x) { int32_t s = 0; LK_LANES(i) s += x.v[i]; return s; }
LK_INLINE I16 round_to_bytes(F16 x, uint32_t *words) {
    I16 whole;
    int8_t bytes[16];
    LK_LANES(i) {
        float shifted = x.v[i] + 12582912.0f; // adding 1.5 * 2^23 rounds to an integer
        __builtin_memcpy(&whole.v[i], &shifted, 4);
        whole.v[i] -= 0x4b400000;
        bytes[i] = (int8_t)whole.v[i];
    }
    __builtin_memcpy(words, bytes, 16);
    return whole;
}
LK_INLINE F16 dot_bf16(F16 acc, const void *w, uint32_t x) {
    const uint32_t *pairs = (const uint32_t *)w;
    float even = word_to_f32(x << 16), odd = word_to_f32(x & 0xffff0000u);
    LK_LANES(i) acc.v[i] += word_to_f32(pairs[i] << 16) * even + word_to_f32(pairs[i] & 0xffff0000u) * odd;
    return acc;
}
struct Fours { uint32_t v[8]; };
LK_INLINE Fours fours_of(uint32_t first, uint32_t second) {
    uint32_t inputs[4] = {first & 0xffff, first >> 16, second & 0xffff, second >> 16};
    uint32_t a = inputs[0], b = inputs[1], c = inputs[2] << 16, d = inputs[3] << 16;
    return {{a | b << 16, a | c, a | d, b | c, b | d, inputs[2] | d, 0, 0}};
}
LK_INLINE I16 codes_load(const uint32_t *p) { I16 r; __builtin_memcpy(r.v, p, 64); return r; }
LK_INLINE I16 codes_next(I16 codes) { LK_LANES(i) codes.v[i] = (int32_t)((uint32_t)codes.v[i] >> 4); return codes; }
LK_INLINE F16 dot_sparse24(F16 acc, const void *w, Fours x, I16 codes) {
    const uint32_t *weights = (const uint32_t *)w;
    LK_LANES(i) {
        uint32_t pair = x.v[codes.v[i] & 7];
        acc.v[i] += word_to_f32(weights[i] << 16) * word_to_f32(pair << 16) +
                    word_to_f32(weights[i] & 0xffff0000u) * word_to_f32(pair & 0xffff0000u);
    }
    return acc;
}
struct Bytes { uint8_t v[64]; };
LK_INLINE Bytes bytes_load(const void *p) { Bytes b; __builtin_memcpy(b.v, p, 64); return b; }
LK_INLINE Bytes expand_bytes(Bytes pairs, I16 codes, int which) {
    const uint8_t first[8] = {0, 0, 0, 1, 1, 2}, second[8] = {1, 2, 3, 2, 3, 3};
    Bytes b;
    for (int i = 0; i < 64; i++) b.v[i] = 128;
    LK_LANES(i) {
        int code = codes.v[i] & 7;
        b.v[4 * i + first[code]] = pairs.v[4 * i + 2 * which] ^ 128, b.v[4 * i + second[code]] = pairs.v[4 * i + 2 * which + 1] ^ 128;
    }
    return b;
}
LK_INLINE Bytes bytes_low(Bytes b) { for (int i = 0; i < 64; i++) b.v[i] &= 15; return b; }
LK_INLINE Bytes bytes_high(Bytes b) { for (int i = 0; i < 64; i++) b.v[i] >>= 4; return b; }
LK_INLINE I16 dot_int8(I16 acc, Bytes w, int32_t x) {
    int32_t x0 = (int8_t)x, x1 = (int8_t)(x >> 8), x2 = (int8_t)(x >> 16), x3 = (int8_t)(x >> 24);
    LK_LANES(i) acc.v[i] += w.v[4 * i] * x0 + w.v[4 * i + 1] * x1 + w.v[4 * i + 2] * x2 + w.v[4 * i + 3] * x3;
    return acc;
}
LK_INLINE I16 dot_int4(I16 acc, Bytes w, int32_t x) { return dot_int8(acc, w, x); }
#define LK_INT8_OFFSET 128

#endif
