// The kernels, written once for sixteen lanes and compiled once per instruction set (kernels_*.cpp).
#include "kernels.h"

#define LK_INLINE static inline __attribute__((always_inline))
#if defined(LK_AVX512) || defined(LK_AVX2)
#include <immintrin.h>
#elif defined(LK_NEON)
#include <arm_neon.h>
#endif
#ifndef LK_CHAINS
#define LK_CHAINS 8 // the number of sums of sixteen lanes that hide the latency of an addition
#endif

namespace LK_NAMESPACE {

#include "vector.inl"

// ---- numbers -------------------------------------------------------------------------------------------------------

LK_INLINE float bits_f32(uint32_t bits) {
    float x;
    __builtin_memcpy(&x, &bits, 4);
    return x;
}

// Loads the first `count` of sixteen numbers and zeros for the rest; memory after them is not read.
LK_INLINE F16 f16_load_part(const float *from, int32_t count) {
    if (count >= 16) return f16_load(from);
    if (count <= 0) return f16_zero();
    float padded[16] = {0};
    for (int32_t i = 0; i < count; i++) padded[i] = from[i];
    return f16_load(padded);
}

LK_INLINE void f16_store_part(float *to, F16 x, int32_t count) {
    if (count >= 16) return f16_store(to, x);
    float values[16];
    f16_store(values, x);
    for (int32_t i = 0; i < count; i++) to[i] = values[i];
}

// e^x to 2 units in the last place: 2^n * e^r, |r| <= ln(2) / 2, by the Taylor polynomial of degree 7 (error 6e-9).
LK_INLINE F16 f16_exp(F16 x) {
    x = f16_min(f16_set(88.0f), f16_max(f16_set(-87.0f), x)); // in this order, NaN stays NaN
    F16 n = f16_round(f16_mul(x, f16_set(1.44269504f)));
    F16 r = f16_fma(n, f16_set(2.12194440e-4f), f16_fma(n, f16_set(-0.693359375f), x)); // ln 2 as a sum of two constants
    F16 p = f16_set(1.98412698e-4f);
    p = f16_fma(p, r, f16_set(1.38888889e-3f));
    p = f16_fma(p, r, f16_set(8.33333333e-3f));
    p = f16_fma(p, r, f16_set(4.16666667e-2f));
    p = f16_fma(p, r, f16_set(1.66666667e-1f));
    p = f16_fma(p, r, f16_set(0.5f));
    p = f16_fma(p, r, f16_set(1.0f));
    p = f16_fma(p, r, f16_set(1.0f));
    return f16_scale(p, n);
}

// GELU, tanh form: x (1 + tanh u) / 2 = x / (1 + e^-2u), u = sqrt(2 / pi) (x + 0.044715 x^3).
LK_INLINE F16 f16_gelu(F16 x) {
    F16 cubic = f16_mul(x, f16_fma(f16_mul(x, x), f16_set(-1.5957691216f * 0.044715f), f16_set(-1.5957691216f)));
    return f16_div(x, f16_add(f16_set(1.0f), f16_exp(cubic)));
}

// The largest magnitude, or NaN if one of the numbers is NaN. The bits of magnitudes are in the order of the magnitudes, and those
// of NaN come after those of infinity.
LK_INLINE float largest_magnitude(const float *x, int32_t count) {
    int32_t largest = 0;
#pragma omp simd reduction(max : largest)
    for (int32_t i = 0; i < count; i++) {
        int32_t word;
        __builtin_memcpy(&word, x + i, 4);
        word &= 0x7fffffff;
        largest = word > largest ? word : largest;
    }
    return bits_f32((uint32_t)largest);
}

static void convert_to_f32(const void *from, int64_t count, float *out) {
    const uint16_t *words = (const uint16_t *)from;
    for (int64_t i = 0; i < count; i++) out[i] = bits_f32((uint32_t)words[i] << 16);
}

// Rounds to nearest, ties to even; NaN stays NaN.
static void convert_to_bf16(const float *x, int64_t count, void *out) {
    uint16_t *words = (uint16_t *)out;
    int64_t i = 0;
    for (; i + 16 <= count; i += 16) f16_to_bf16(f16_load(x + i), words + i);
    if (i == count) return;
    uint16_t rest[16];
    f16_to_bf16(f16_load_part(x + i, (int32_t)(count - i)), rest);
    __builtin_memcpy(words + i, rest, (uint64_t)(count - i) * 2);
}

// Rotates neighbouring pairs of the first `rotary_dim` dimensions of each head in place: GPT-J's rotary positions.
static void rotate(float *x, int32_t heads, int32_t head_dim, const float *sin, const float *cos, int32_t rotary_dim) {
    for (int32_t h = 0; h < heads; h++, x += head_dim)
        for (int32_t i = 0; i < rotary_dim / 2; i++) {
            float even = x[2 * i], odd = x[2 * i + 1];
            x[2 * i] = even * cos[i] - odd * sin[i];
            x[2 * i + 1] = odd * cos[i] + even * sin[i];
        }
}

// ---- activations ---------------------------------------------------------------------------------------------------

LK_INLINE int32_t rows_of_tile(const Activations *a, int32_t tile) {
    int32_t left = a->rows - tile * LK_TILE;
    return left < LK_TILE ? left : LK_TILE;
}

static void pack_row_f32(const float *x, int32_t in, int32_t row, const Activations *a) {
    int32_t tile = row / LK_TILE, rows = rows_of_tile(a, tile);
    float *at = (float *)a->data + (int64_t)tile * LK_TILE * a->in + row % LK_TILE;
    for (int32_t i = 0; i < a->in; i++) at[(int64_t)i * rows] = i < in ? x[i] : 0.0f;
}

static void pack_row_bf16(const float *x, int32_t in, int32_t row, const Activations *a) {
    int32_t tile = row / LK_TILE, rows = rows_of_tile(a, tile);
    uint32_t *at = (uint32_t *)a->data + ((int64_t)tile * LK_TILE * a->in) / 2 + row % LK_TILE;
    for (int32_t i = 0; i < a->in; i += 16) {
        uint32_t pairs[8];
        f16_to_bf16(f16_load_part(x + i, in - i), pairs);
        for (int32_t w = 0; w < 8; w++) at[(int64_t)(i / 2 + w) * rows] = pairs[w];
    }
}

static void pack_row_int8(const float *x, int32_t in, int32_t row, const Activations *a) {
    int32_t tile = row / LK_TILE, rows = rows_of_tile(a, tile), groups = a->in / a->group;
    uint32_t *at = (uint32_t *)a->data + ((int64_t)tile * LK_TILE * a->in) / 4 + row % LK_TILE;
    int64_t entry = (int64_t)tile * LK_TILE * groups + row % LK_TILE;
    for (int32_t g = 0; g < groups; g++, x += a->group, in -= a->group) {
        float padded[128];
        const float *values = x;
        if (in < a->group) { // the end of the row, or the padding after the row
            for (int32_t i = 0; i < a->group; i++) padded[i] = i < in ? x[i] : 0.0f;
            values = padded;
        }
        float largest = largest_magnitude(values, a->group);
        F16 inverse = f16_set(largest > 0.0f ? 127.0f / largest : 0.0f);
        I16 sum = i16_set(0);
        for (int32_t i = 0; i < a->group; i += 16) {
            uint32_t words[4];
            sum = i16_add(sum, round_to_bytes(f16_mul(f16_load(values + i), inverse), words));
            uint32_t *to = at + (int64_t)((g * a->group + i) / 4) * rows;
            for (int32_t w = 0; w < 4; w++) to[(int64_t)w * rows] = words[w];
        }
        a->scales[entry + (int64_t)g * rows] = largest / 127.0f;
        a->starts[entry + (int64_t)g * rows] = (a->group == 32 ? -8 : -LK_INT8_OFFSET) * i16_sum(sum);
    }
}

// Stores the scale of a row whose largest magnitude becomes `most`, and returns its inverse. A row in which nothing reaches
// 1e-30 becomes zeros. If all rows share a scale, that scale is used; but a row with NaN or infinity has the scale NaN.
static float scale_row(const float *x, int32_t in, int32_t row, const Activations *a, float most) {
    float scale = a->input_scale, largest = largest_magnitude(x, in);
    if (scale > 0.0f) return a->scales[row] = scale + (largest - largest), 1.0f / scale; // largest - largest is 0 or NaN
    a->scales[row] = largest * (1.0f / most);
    return most / (largest > 1e-30f ? largest : 1e-30f);
}

static void pack_row_w8a8(const float *x, int32_t in, int32_t row, const Activations *a) {
    int32_t tile = row / LK_TILE, rows = rows_of_tile(a, tile);
    uint32_t *at = (uint32_t *)a->data + ((int64_t)tile * LK_TILE * a->in) / 4 + row % LK_TILE;
    F16 inverse = f16_set(scale_row(x, in, row, a, 127.0f)), most = f16_set(127.0f), least = f16_set(-127.0f);
    I16 sum = i16_set(0);
    for (int32_t i = 0; i < a->in; i += 16) {
        uint32_t words[4];
        F16 scaled = f16_mul(f16_load_part(x + i, in - i), inverse);
        sum = i16_add(sum, round_to_bytes(f16_min(f16_max(scaled, least), most), words));
        for (int32_t w = 0; w < 4; w++) at[(int64_t)(i / 4 + w) * rows] = words[w];
    }
    a->starts[row] = -LK_INT8_OFFSET * i16_sum(sum);
}

// Rounds to the nearest number with `bits` bits after the leading one, ties to even; numbers below 2^(least - 127) have the
// steps of that exponent.
static void round_to_fp8(float *x, int32_t count, float inverse, float most, int32_t bits, uint32_t least) {
    float steps = 1.5f * (float)(1 << (23 - bits)); // near steps * 2^e, float32 has steps of 2^(e - bits)
#pragma omp simd
    for (int32_t i = 0; i < count; i++) {
        float y = x[i] * inverse, z = y < -most ? -most : y > most ? most : y;
        uint32_t word;
        __builtin_memcpy(&word, &z, 4);
        uint32_t exponent = word & 0x7f800000u, used = exponent < least << 23 ? least << 23 : exponent;
        float power;
        __builtin_memcpy(&power, &used, 4);
        float grid = power * steps;
        x[i] = (z + grid) - grid;
    }
}

static void pack_row_fp8(const float *x, int32_t in, int32_t row, const Activations *a) {
    int32_t tile = row / LK_TILE, rows = rows_of_tile(a, tile);
    uint32_t *at = (uint32_t *)a->data + ((int64_t)tile * LK_TILE * a->in) / 2 + row % LK_TILE;
    bool wide = a->type == LK_E5M2;
    float most = wide ? 57344.0f : 448.0f, inverse = scale_row(x, in, row, a, most);
    for (int32_t i = 0; i < a->in; i += 16) {
        float part[16];
        f16_store(part, f16_load_part(x + i, in - i));
        round_to_fp8(part, 16, inverse, most, wide ? 2 : 3, wide ? 113 : 121); // the smallest normal numbers are 2^-14 and 2^-6
        uint32_t pairs[8];
        f16_to_bf16(f16_load(part), pairs); // exact
        for (int32_t w = 0; w < 8; w++) at[(int64_t)(i / 2 + w) * rows] = pairs[w];
    }
}

static void pack_row(const float *x, int32_t in, int32_t row, const Activations *a) {
    switch (a->type) {
    case LK_F32: return pack_row_f32(x, in, row, a);
    case LK_BF16: return pack_row_bf16(x, in, row, a);
    case LK_W8A8: return pack_row_w8a8(x, in, row, a);
    case LK_INT8: return pack_row_int8(x, in, row, a);
    default: return pack_row_fp8(x, in, row, a);
    }
}

static void layer_norm(const float *x, const float *weight, const float *bias, float epsilon, int32_t hidden, float *out) {
    float sum = 0.0f, squares = 0.0f;
#pragma omp simd reduction(+ : sum)
    for (int32_t i = 0; i < hidden; i++) sum += x[i];
    float mean = sum / (float)hidden;
#pragma omp simd reduction(+ : squares)
    for (int32_t i = 0; i < hidden; i++) squares += (x[i] - mean) * (x[i] - mean);
    float scale = 1.0f / __builtin_sqrtf(squares / (float)hidden + epsilon);
#pragma omp simd
    for (int32_t i = 0; i < hidden; i++) out[i] = (x[i] - mean) * scale * weight[i] + bias[i];
}

// ---- sampling ------------------------------------------------------------------------------------------------------

// The index of the first largest number; NaN never counts as the largest.
static int32_t extremes(const float *x, int32_t count, float *largest, float *smallest) {
    float most = -__builtin_inff(), least = __builtin_inff();
#pragma omp simd reduction(max : most) reduction(min : least)
    for (int32_t i = 0; i < count; i++) {
        most = x[i] > most ? x[i] : most;
        least = x[i] < least ? x[i] : least;
    }
    *largest = most, *smallest = least;
    int32_t first = 0;
    while (first < count && x[first] != most) first++;
    return first < count ? first : 0;
}

// e^((x - largest) / temperature) in double precision, as 2^n e^r, |r| <= ln(2) / 2, by the Taylor polynomial of degree 13.
static void softmax_weights(const float *x, int32_t count, float largest, double temperature, double *weights) {
    double inverse = 1.0 / temperature;
#pragma omp simd
    for (int32_t i = 0; i < count; i++) {
        double at = ((double)x[i] - (double)largest) * inverse, d = at > -700.0 ? at : -700.0;
        double shifted = d * 1.4426950408889634 + 6755399441055744.0; // adding 1.5 * 2^52 rounds to an integer
        int64_t n;
        __builtin_memcpy(&n, &shifted, 8);
        double whole = shifted - 6755399441055744.0;
        double r = d - whole * 6.93147180369123816490e-01 - whole * 1.90821492927058770002e-10; // ln 2 as a sum of two constants
        double p = 1.0 / 6227020800;
        p = p * r + 1.0 / 479001600;
        p = p * r + 1.0 / 39916800;
        p = p * r + 1.0 / 3628800;
        p = p * r + 1.0 / 362880;
        p = p * r + 1.0 / 40320;
        p = p * r + 1.0 / 5040;
        p = p * r + 1.0 / 720;
        p = p * r + 1.0 / 120;
        p = p * r + 1.0 / 24;
        p = p * r + 1.0 / 6;
        p = p * r + 0.5;
        p = p * r + 1.0;
        p = p * r + 1.0;
        int64_t bits = (int64_t)((uint64_t)(n + 1023) << 52);
        double power;
        __builtin_memcpy(&power, &bits, 8);
        weights[i] = at > -700.0 ? p * power : 0.0;
    }
}

// ---- products ------------------------------------------------------------------------------------------------------

// The hardware prefetches a stream too, but not far enough ahead when the core also computes.
LK_INLINE void prefetch(const void *at) { __builtin_prefetch((const char *)at + 4096); }

// A tile of M rows by P neighbouring panels. U consecutive steps use separate accumulators, which hides latency when there are
// few rows.
template <int M, int P, int U> LK_INLINE void tile_f32(const float *w, int64_t panel, int32_t in, const float *x, F16 (*sum)[M]) {
    F16 acc[U][P][M];
    for (int u = 0; u < U; u++)
        for (int p = 0; p < P; p++)
            for (int m = 0; m < M; m++) acc[u][p][m] = f16_zero();
    for (int32_t k = 0; k < in; k += U)
        for (int u = 0; u < U; u++) {
            F16 weights[P];
            for (int p = 0; p < P; p++) {
                prefetch(w + p * panel + (int64_t)(k + u) * 16);
                weights[p] = f16_load(w + p * panel + (int64_t)(k + u) * 16);
            }
            for (int m = 0; m < M; m++) {
                F16 input = f16_set(x[(int64_t)(k + u) * M + m]);
                for (int p = 0; p < P; p++) acc[u][p][m] = f16_fma(weights[p], input, acc[u][p][m]);
            }
        }
    for (int p = 0; p < P; p++)
        for (int m = 0; m < M; m++) {
            sum[p][m] = acc[0][p][m];
            for (int u = 1; u < U; u++) sum[p][m] = f16_add(sum[p][m], acc[u][p][m]);
        }
}

#if defined(LK_MATRIX)
#include "matrix.inl"
#endif

template <int M, int P, int U>
LK_INLINE void tile_bf16(const uint16_t *w, int64_t panel, int32_t in, const uint32_t *x, F16 (*sum)[M]) {
#if defined(LK_MATRIX)
    if constexpr (M >= 2) return matrix_tile_bf16<M>(w, in, x, *sum);
#endif
    F16 acc[U][P][M];
    for (int u = 0; u < U; u++)
        for (int p = 0; p < P; p++)
            for (int m = 0; m < M; m++) acc[u][p][m] = f16_zero();
    for (int32_t k = 0; k < in / 2; k += U)
        for (int u = 0; u < U; u++) {
            for (int p = 0; p < P; p++) prefetch(w + p * panel + (int64_t)(k + u) * 32);
            for (int m = 0; m < M; m++)
                for (int p = 0; p < P; p++)
                    acc[u][p][m] = dot_bf16(acc[u][p][m], w + p * panel + (int64_t)(k + u) * 32, x[(int64_t)(k + u) * M + m]);
        }
    for (int p = 0; p < P; p++)
        for (int m = 0; m < M; m++) {
            sum[p][m] = acc[0][p][m];
            for (int u = 1; u < U; u++) sum[p][m] = f16_add(sum[p][m], acc[u][p][m]);
        }
}

#if defined(LK_EXPANDS)
// For each code, which bytes of the two weights become the pair of columns 0 and 1 (`high` 0) or 2 and 3 (1); 0x80 is zero.
LK_INLINE __m256i places_of(int high) {
    constexpr int none = (int)0x80808080u, both = 0x03020100, left = (int)0x80800100u, right = 0x01008080;
    constexpr int second_left = (int)0x80800302u, second_right = 0x03028080;
    return high ? _mm256_setr_epi32(none, second_left, second_right, second_left, second_right, both, none, none)
                : _mm256_setr_epi32(both, left, left, right, right, none, none, none);
}
#endif

// Of every four inputs, each lane takes the two that its code names: the six pairs of the four are a table that all lanes read.
template <int M, int P, int U>
LK_INLINE void tile_sparse24(const uint16_t *w, int64_t panel, const uint32_t *codes, int64_t code_panel, int32_t in,
                             const uint32_t *x, F16 (*sum)[M]) {
    F16 acc[U][P][M];
    for (int u = 0; u < U; u++)
        for (int p = 0; p < P; p++)
            for (int m = 0; m < M; m++) acc[u][p][m] = f16_zero();
    for (int32_t g = 0; g < in / 32; g++, x += 16 * M) {
        I16 code[P];
        for (int p = 0; p < P; p++) {
            prefetch(codes + p * code_panel + (int64_t)g * 16);
            code[p] = codes_load(codes + p * code_panel + (int64_t)g * 16);
        }
        for (int f = 0; f < 8; f += U)
            for (int u = 0; u < U; u++) {
                int64_t at = ((int64_t)g * 8 + f + u) * 32;
                for (int p = 0; p < P; p++) prefetch(w + p * panel + at);
#if defined(LK_EXPANDS)
                if constexpr (M >= 4) { // then filling in the zeros of the weights is less work than choosing inputs for each row
                    for (int p = 0; p < P; p++) {
                        Pairs low = expand(w + p * panel + at, code[p], places_of(0)), high = expand(w + p * panel + at, code[p], places_of(1));
                        for (int m = 0; m < M; m++) {
                            acc[u][p][m] = dot_expanded(acc[u][p][m], low, x[2 * (f + u) * M + m]);
                            acc[u][p][m] = dot_expanded(acc[u][p][m], high, x[(2 * (f + u) + 1) * M + m]);
                        }
                        code[p] = codes_next(code[p]);
                    }
                    continue;
                }
#endif
                for (int m = 0; m < M; m++) {
                    Fours inputs = fours_of(x[2 * (f + u) * M + m], x[(2 * (f + u) + 1) * M + m]);
                    for (int p = 0; p < P; p++) acc[u][p][m] = dot_sparse24(acc[u][p][m], w + p * panel + at, inputs, code[p]);
                }
                for (int p = 0; p < P; p++) code[p] = codes_next(code[p]);
            }
    }
    for (int p = 0; p < P; p++)
        for (int m = 0; m < M; m++) {
            sum[p][m] = acc[0][p][m];
            for (int u = 1; u < U; u++) sum[p][m] = f16_add(sum[p][m], acc[u][p][m]);
        }
}

// The integer sums of a group start at a value that cancels the offset in the stored weights.
template <int M, int P>
LK_INLINE void tile_int8(const uint8_t *w, int64_t panel, int32_t in, int32_t group, const int32_t *x, const float *scales,
                         const int32_t *starts, F16 (*sum)[M]) {
#if defined(LK_MATRIX)
    if constexpr (M >= 2) return matrix_tile_int8<M>(w, in, group, x, scales, starts, *sum);
#endif
    for (int p = 0; p < P; p++)
        for (int m = 0; m < M; m++) sum[p][m] = f16_zero();
    for (int32_t g = 0; g < in / group; g++) {
        I16 acc[P][M];
        for (int p = 0; p < P; p++)
            for (int m = 0; m < M; m++) acc[p][m] = i16_set(starts[g * M + m]);
        for (int32_t k = g * (group / 4); k < (g + 1) * (group / 4); k++)
            for (int p = 0; p < P; p++) {
                prefetch(w + p * panel + (int64_t)k * 64);
                Bytes weights = bytes_load(w + p * panel + (int64_t)k * 64);
                for (int m = 0; m < M; m++) acc[p][m] = dot_int8(acc[p][m], weights, x[(int64_t)k * M + m]);
            }
        for (int p = 0; p < P; p++)
            for (int m = 0; m < M; m++) sum[p][m] = f16_fma(i16_to_f16(acc[p][m]), f16_set(scales[g * M + m]), sum[p][m]);
    }
}

// Sixteen words of eight codes belong to 32 inputs, and four such steps to a group of inputs that share a scale.
template <int M, int P>
LK_INLINE void tile_sparse24_int8(const uint8_t *w, int64_t panel, const uint32_t *codes, int64_t code_panel, int32_t in,
                                  const int32_t *x, const float *scales, const int32_t *starts, F16 (*sum)[M]) {
    for (int p = 0; p < P; p++)
        for (int m = 0; m < M; m++) sum[p][m] = f16_zero();
    for (int32_t g = 0; g < in / 128; g++, scales += M, starts += M) {
        I16 acc[P][M];
        for (int p = 0; p < P; p++)
            for (int m = 0; m < M; m++) acc[p][m] = i16_set(starts[m]);
        for (int32_t step = 4 * g; step < 4 * (g + 1); step++, x += 8 * M) {
            I16 code[P];
            for (int p = 0; p < P; p++) {
                prefetch(codes + p * code_panel + (int64_t)step * 16);
                code[p] = codes_load(codes + p * code_panel + (int64_t)step * 16);
            }
            for (int f = 0; f < 8; f += 2)
                for (int p = 0; p < P; p++) {
                    const uint8_t *at = w + p * panel + ((int64_t)step * 8 + f) * 32;
                    prefetch(at);
                    Bytes both = bytes_load(at), first = expand_bytes(both, code[p], 0);
                    Bytes second = expand_bytes(both, code[p] = codes_next(code[p]), 1);
                    for (int m = 0; m < M; m++) acc[p][m] = dot_int8(acc[p][m], first, x[f * M + m]);
                    for (int m = 0; m < M; m++) acc[p][m] = dot_int8(acc[p][m], second, x[(f + 1) * M + m]);
                    code[p] = codes_next(code[p]);
                }
        }
        for (int p = 0; p < P; p++)
            for (int m = 0; m < M; m++) sum[p][m] = f16_fma(i16_to_f16(acc[p][m]), f16_set(scales[m]), sum[p][m]);
    }
}

// All inputs of a row share a scale, so the whole sum is a sum of integers.
template <int M, int P>
LK_INLINE void tile_w8a8(const uint8_t *w, int64_t panel, int32_t in, const int32_t *x, const float *scales, const int32_t *starts,
                         F16 (*sum)[M]) {
#if defined(LK_MATRIX)
    if constexpr (M >= 2) return matrix_tile_int8<M>(w, in, in, x, scales, starts, *sum);
#endif
    I16 acc[P][M];
    for (int p = 0; p < P; p++)
        for (int m = 0; m < M; m++) acc[p][m] = i16_set(starts[m]);
    for (int32_t k = 0; k < in / 4; k++)
        for (int p = 0; p < P; p++) {
            prefetch(w + p * panel + (int64_t)k * 64);
            Bytes weights = bytes_load(w + p * panel + (int64_t)k * 64);
            for (int m = 0; m < M; m++) acc[p][m] = dot_int8(acc[p][m], weights, x[(int64_t)k * M + m]);
        }
    for (int p = 0; p < P; p++)
        for (int m = 0; m < M; m++) sum[p][m] = f16_mul(i16_to_f16(acc[p][m]), f16_set(scales[m]));
}

template <int M, int P>
LK_INLINE void tile_int4(const uint8_t *w, int64_t panel, const uint16_t *weight_scales, int64_t scale_panel, int32_t in,
                         const int32_t *x, const float *scales, const int32_t *starts, F16 (*sum)[M]) {
#if defined(LK_MATRIX)
    if constexpr (M >= 2) return matrix_tile_int4<M>(w, weight_scales, in, x, scales, starts, *sum);
#endif
    for (int p = 0; p < P; p++)
        for (int m = 0; m < M; m++) sum[p][m] = f16_zero();
    for (int32_t g = 0; g < in / 32; g++)
        for (int p = 0; p < P; p++) {
            // With few rows, low and high nibbles are summed separately to hide latency.
            constexpr int H = 2 * M <= LK_CHAINS ? 1 : 0;
            I16 acc[H + 1][M];
            for (int m = 0; m < M; m++) acc[0][m] = i16_set(starts[g * M + m]), acc[H][m] = H ? i16_set(0) : acc[0][m];
#if defined(LK_NEON)
#pragma GCC unroll 1 // unrolled, the sums would not fit into the registers
#endif
            for (int j = 0; j < 4; j++) {
                prefetch(w + p * panel + (int64_t)g * 256 + j * 64);
                Bytes both = bytes_load(w + p * panel + (int64_t)g * 256 + j * 64), low = bytes_low(both), high = bytes_high(both);
                const int32_t *inputs = x + ((int64_t)g * 8 + 2 * j) * M;
                for (int m = 0; m < M; m++) acc[0][m] = dot_int4(acc[0][m], low, inputs[m]);
                for (int m = 0; m < M; m++) acc[H][m] = dot_int4(acc[H][m], high, inputs[M + m]);
            }
            F16 of_weights = f16_from_half(weight_scales + p * scale_panel + (int64_t)g * 16);
            for (int m = 0; m < M; m++)
                sum[p][m] = f16_fma(i16_to_f16(H ? i16_add(acc[0][m], acc[H][m]) : acc[0][m]),
                                    f16_mul(of_weights, f16_set(scales[g * M + m])), sum[p][m]);
        }
}

// Applies scale, bias and GELU to the sums of one panel and stores them.
template <int M> LK_INLINE void finish(const lk_weight *w, int32_t panel, int32_t row, const F16 *sum, const Output *to) {
    int32_t first = panel * 16, lanes = w->out - first < 16 ? w->out - first : 16;
    F16 scale = has_row_scales(w->type) ? f16_load((const float *)w->scales + first) : f16_set(1.0f);
    F16 bias = w->bias ? f16_load_part(w->bias + first, lanes) : f16_zero();
    for (int m = 0; m < M; m++) {
        F16 total = f16_fma(sum[m], scale, bias);
        float *out = to->out + (row + m) * to->stride + first;
        if (to->mode == ADD) total = f16_add(total, f16_load_part(out, lanes));
        if (to->mode == STORE_GELU) total = f16_gelu(total);
        if (to->packed) {
            const Activations *a = to->packed;
            int32_t tile = (row + m) / LK_TILE, rows = rows_of_tile(a, tile), at = (row + m) % LK_TILE;
            float values[16];
            f16_store_part(values, total, lanes);
            for (int i = lanes; i < 16; i++) values[i] = 0.0f;
            if (a->type == LK_F32) {
                float *packed = (float *)a->data + (int64_t)tile * LK_TILE * a->in + (int64_t)first * rows + at;
                for (int i = 0; i < 16; i++) packed[(int64_t)i * rows] = values[i];
            } else {
                uint32_t pairs[8], *packed = (uint32_t *)a->data + ((int64_t)tile * LK_TILE * a->in + (int64_t)first * rows) / 2 + at;
                f16_to_bf16(f16_load(values), pairs);
                for (int i = 0; i < 8; i++) packed[(int64_t)i * rows] = pairs[i];
            }
        } else if (to->rows16) {
            uint16_t words[16];
            f16_to_bf16(total, words);
            __builtin_memcpy((uint16_t *)to->rows16 + (row + m) * to->stride + first, words, (uint64_t)lanes * 2);
        } else {
            f16_store_part(out, total, lanes);
        }
    }
}

template <int M, int P> static void tile(const lk_weight *w, const Activations *a, int32_t at, int32_t panel, const Output *to) {
    constexpr int C = LK_CHAINS, U = M * P >= C ? 1 : M * P * 2 >= C ? 2 : M * P * 4 >= C ? 4 : 8;
    F16 sum[P][M];
    int32_t in = a->in, groups = a->group ? in / a->group : 1;
    int64_t inputs = (int64_t)at * LK_TILE * in, entry = (int64_t)at * LK_TILE * groups;
    if (w->type == LK_F32) {
        int64_t size = (int64_t)in * 16;
        tile_f32<M, P, U>((const float *)w->data + panel * size, size, in, (const float *)a->data + inputs, sum);
    } else if (w->type == LK_BF16 || is_fp8(w->type)) {
        int64_t size = (int64_t)in * 16;
        tile_bf16<M, P, U>((const uint16_t *)w->data + panel * size, size, in, (const uint32_t *)a->data + inputs / 2, sum);
        if (is_fp8(w->type))
            for (int p = 0; p < P; p++)
                for (int m = 0; m < M; m++) sum[p][m] = f16_mul(sum[p][m], f16_set(a->scales[entry + m]));
    } else if (w->type == LK_SPARSE24) {
        int64_t size = (int64_t)in * 8, codes = in / 2;
        tile_sparse24<M, P, U>((const uint16_t *)w->data + panel * size, size, (const uint32_t *)w->scales + panel * codes, codes, in,
                               (const uint32_t *)a->data + inputs / 2, sum);
    } else if (w->type == LK_SPARSE24_INT8) {
        int64_t size = (int64_t)in * 8, codes = in / 2;
        const uint32_t *first = (const uint32_t *)w->scales + round_up(w->out, 16);
        tile_sparse24_int8<M, P>((const uint8_t *)w->data + panel * size, size, first + panel * codes, codes, in,
                                 (const int32_t *)a->data + inputs / 4, a->scales + entry, a->starts + entry, sum);
    } else if (w->type == LK_W8A8) {
        int64_t size = (int64_t)in * 16;
        tile_w8a8<M, P>((const uint8_t *)w->data + panel * size, size, in, (const int32_t *)a->data + inputs / 4,
                        a->scales + entry, a->starts + entry, sum);
    } else if (w->type == LK_INT8) {
        int64_t size = (int64_t)in * 16;
        tile_int8<M, P>((const uint8_t *)w->data + panel * size, size, in, a->group, (const int32_t *)a->data + inputs / 4,
                        a->scales + entry, a->starts + entry, sum);
    } else {
        int64_t size = (int64_t)in * 8, scales = in / 2;
        tile_int4<M, P>((const uint8_t *)w->data + panel * size, size, (const uint16_t *)w->scales + panel * scales, scales, in,
                        (const int32_t *)a->data + inputs / 4, a->scales + entry, a->starts + entry, sum);
    }
    for (int p = 0; p < P; p++) finish<M>(w, panel + p, at * LK_TILE, sum[p], to);
}

template <int P> static void tile_of(int32_t rows, const lk_weight *w, const Activations *a, int32_t at, int32_t panel, const Output *to) {
    switch (rows) {
    case 1: return tile<1, P>(w, a, at, panel, to);
    case 2: return tile<2, P>(w, a, at, panel, to);
    case 3: return tile<3, P>(w, a, at, panel, to);
    case 4: return tile<4, P>(w, a, at, panel, to);
#if LK_TILE >= 6
    case 5: return tile<5, P>(w, a, at, panel, to);
    case 6: return tile<6, P>(w, a, at, panel, to);
#endif
#if LK_TILE >= 12
    case 7: return tile<7, P>(w, a, at, panel, to);
    case 8: return tile<8, P>(w, a, at, panel, to);
    case 9: return tile<9, P>(w, a, at, panel, to);
    case 10: return tile<10, P>(w, a, at, panel, to);
    case 11: return tile<11, P>(w, a, at, panel, to);
    case 12: return tile<12, P>(w, a, at, panel, to);
#endif
    }
}

static void product(const lk_weight *w, const Activations *a, int32_t first, int32_t last, const Output *to) {
    int32_t tiles = (a->rows + LK_TILE - 1) / LK_TILE;
    // Two panels at once if the registers can hold them. Integers in groups need a second set of sums; in W8A8, twelve rows of two
    // panels took twice as long as of one. A 2:4 sparse panel needs four registers of its own: with twelve rows of two panels, sums
    // were in memory, and the product took three times as long as of bf16.
    bool integers = a->type == LK_INT8 || a->type == LK_W8A8;
    bool pairs = LK_PANELS == 2 && a->rows <= (integers ? 4 : w->type == LK_SPARSE24 ? 8 : INT32_MAX);
    for (int32_t panel = first; panel < last;) {
        bool two = pairs && panel + 1 < last;
        for (int32_t t = 0; t < tiles; t++)
            (two ? tile_of<LK_PANELS> : tile_of<1>)(rows_of_tile(a, t), w, a, t, panel, to);
        panel += two ? 2 : 1;
    }
}

#include "cache.inl"

#include "attention.inl"

} // namespace

const struct Kernels LK_TABLE = {
    LK_NAME,
    LK_NAMESPACE::product,
    LK_NAMESPACE::pack_row,
    LK_NAMESPACE::layer_norm,
    LK_NAMESPACE::rotate,
    LK_NAMESPACE::convert_to_f32,
    LK_NAMESPACE::convert_to_bf16,
    LK_NAMESPACE::to_cache,
    LK_NAMESPACE::from_cache,
    LK_NAMESPACE::decode,
    LK_NAMESPACE::prefill,
    LK_NAMESPACE::prefill_scratch,
    LK_NAMESPACE::extremes,
    LK_NAMESPACE::softmax_weights,
};
