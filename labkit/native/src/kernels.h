// The table of kernels. Each instruction set provides one table, and the rest of the library calls the kernels through it.
#pragma once
#include "native.h"

// Holds rows of activations in tiles of up to LK_TILE rows. Tile t begins at t * LK_TILE * in and has the layout [step][row of
// the tile][unit], where a unit has 1 (f32), 2 (bf16) or 4 (int8) inputs. So, at each step, the inputs of all rows of a tile
// are adjacent in memory.
struct Activations {
    int32_t type;     // lk_type, but LK_INT8 for weights of LK_INT4 and LK_SPARSE24_INT8, and LK_BF16 for LK_SPARSE24
    int32_t rows, in; // `in` includes the padding
    int32_t group;    // int8: number of inputs that share a scale; 0 otherwise
    void *data;
    float *scales;    // int8: per tile [group][rows of the tile]; w8a8, FP8: [rows]
    int32_t *starts;  // int8, w8a8: where the integer sums start, in the layout of the scales: the sum of the quantized inputs,
                      // times minus the offset of the stored weights
    float input_scale; // w8a8, FP8: the scale of all rows; 0 if each row has its own scale
};

enum { STORE = 0, ADD = 1, STORE_GELU = 2 };

// The destination of a matrix product. If `packed` is set, the product is written to activations. Otherwise it is written or
// added to f32 rows (`out`, `stride`).
struct Output {
    int32_t mode;
    float *out;
    int64_t stride;
    struct Activations *packed;
    void *rows16;     // bf16 rows instead of f32 ones, with the same stride
};

struct AttentionShape {
    int32_t heads, head_dim, length, queries; // the queries are the last of the `length` positions
    const int32_t *slots;                     // [length]
    // A quantized cache holds bytes, and a scale for each slot and head: [slots][heads]. Other caches have no scales (null).
    int32_t cache_type;                       // LK_INT8 or LK_E4M3
    const float *key_scales, *value_scales;
};

struct Kernels {
    const char *name;
    // Multiplies panels [first, last) of a weight with all rows of the activations.
    void (*product)(const lk_weight *, const struct Activations *, int32_t first, int32_t last, const struct Output *);
    // Writes one row of f32 inputs into the activations, quantized or rounded to their type, and pads it with zeros.
    void (*pack_row)(const float *x, int32_t in, int32_t row, const struct Activations *);
    void (*layer_norm)(const float *x, const float *weight, const float *bias, float epsilon, int32_t hidden, float *out);
    void (*rotate)(float *x, int32_t heads, int32_t head_dim, const float *sin, const float *cos, int32_t rotary_dim);
    void (*to_f32)(const void *bf16, int64_t count, float *out);
    void (*to_bf16)(const float *x, int64_t count, void *out);
    // Convert `heads` heads of f32 numbers to the bytes of a quantized cache, and back.
    void (*to_cache)(const float *x, int32_t type, int32_t heads, int32_t dim, void *bytes, float *scales);
    void (*from_cache)(const void *bytes, const float *scales, int32_t type, int32_t heads, int32_t dim, int32_t to, void *out);
    // Compute attention for heads [first, last) of one sequence. query and out are f32 [tokens][heads][head_dim].
    void (*decode)(const struct AttentionShape *, int32_t type, const float *query, const void *keys, const void *values,
                   int32_t first, int32_t last, float *scores, float *out);
    void (*prefill)(const struct AttentionShape *, int32_t type, const float *query, int64_t query_stride, const void *keys,
                    const void *values, int32_t head, void *scratch, float *out, int64_t out_stride);
    int64_t (*prefill_scratch)(int32_t length, int32_t head_dim);
    // These two functions are used for sampling. Each reads one row of logits.
    int32_t (*extremes)(const float *x, int32_t count, float *largest, float *smallest);
    void (*softmax_weights)(const float *x, int32_t count, float largest, double temperature, double *weights);
};

extern const struct Kernels kernels_portable, kernels_avx2, kernels_avx512_vnni, kernels_avx512_bf16; // x86-64
extern const struct Kernels kernels_neon, kernels_neon_dotprod, kernels_neon_bf16;                      // 64-bit ARM

static inline bool is_fp8(int32_t type) { return type == LK_E4M3 || type == LK_E5M2; }
// Whether a weight has one scale for each output row.
static inline bool has_row_scales(int32_t type) {
    return type == LK_INT8 || type == LK_W8A8 || type == LK_SPARSE24_INT8 || is_fp8(type);
}
// Whether only two of every four weights are stored, with codes that say which two.
static inline bool is_sparse24(int32_t type) { return type == LK_SPARSE24 || type == LK_SPARSE24_INT8; }
// Whether inputs are rounded with scales, so that a row can only be packed when it is complete.
static inline bool rounds_rows(int32_t type) { return type != LK_F32 && type != LK_BF16; }
// The bytes of one activation, of one number in the cache, or of one weight (sparse24: the mean over weights and zeros).
static inline int64_t element_bytes(int32_t type) { return type == LK_F32 ? 4 : type == LK_BF16 || is_fp8(type) ? 2 : 1; }
static inline int64_t round_up(int64_t n, int64_t to) { return (n + to - 1) / to * to; }
static inline int32_t padded_in(int32_t type, int32_t in) {
    return (int32_t)round_up(in, type == LK_INT8 || type == LK_SPARSE24_INT8 ? 128 : 32);
}
