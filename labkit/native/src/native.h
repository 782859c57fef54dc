// The C interface of labkit's CPU kernels. This file declares everything that Python passes or receives; nothing else is
// exported.
//
// Numbers: f32 is IEEE binary32, bf16 is its upper half. A weight of `out` x `in` is packed in panels of 16 output rows:
//   f32   [panel][in][16]                    bf16  [panel][in / 2][16][2]
//   int8  [panel][in / 4][16][4], stored as value + 128, one f32 scale per row
//   int4  [panel][in / 32][4][16][4], low nibble: steps 0, 2, 4, 6 of four inputs; high nibble: steps 1, 3, 5, 7;
//         stored as value + 8; each row has one fp16 scale per group of 32 inputs: [panel][in / 32][16]
//   w8a8  like int8, but each row of inputs has one scale, so the whole sum is a sum of integers
//   sparse24  [panel][in / 4][16][2], the two stored bf16 values of each four neighbouring inputs. A 4-bit code says which two
//         they are: 0 to 5 for the pairs 01 02 03 12 13 23. The codes are words [panel][in / 32][16], the first four inputs in
//         the lowest bits
//   sparse24_int8  [panel][in / 8][16][2][2], the two stored int8 values of four neighbouring inputs, and those of the next four.
//         Each row has one f32 scale. The codes of sparse24 follow the scales
//   e4m3, e5m2 (FP8)  like bf16, which holds these numbers exactly, one f32 scale per row; inputs are rounded to the same format
// `in` is padded with zeros to a multiple of 32 (int8, sparse24_int8: 128), and `out` to a multiple of 16.
// Sizes are counts, strides are in elements.
#pragma once
#include <stdint.h>

#ifdef __cplusplus
extern "C" {
#endif

#define LK_API __attribute__((visibility("default")))

enum lk_type {
    LK_F32 = 0, LK_BF16 = 1, LK_INT8 = 2, LK_INT4 = 3, LK_W8A8 = 4, LK_E4M3 = 5, LK_E5M2 = 6, LK_SPARSE24 = 7, LK_SPARSE24_INT8 = 8
};

typedef struct {
    int32_t type;         // lk_type of the packed data
    int32_t out, in;      // features, without padding
    const void *data;     // panels
    const void *scales;   // int8, w8a8, FP8: f32 [out padded]; int4: fp16 [panel][in / 32][16]; sparse24: the codes;
                          // sparse24_int8: f32 [out padded], then the codes; else null
    const float *bias;    // [out] or null
    float input_scale;    // w8a8, FP8: the scale of all inputs; 0: each row of inputs has its own scale
} lk_weight;

typedef struct {
    const float *ln_weight, *ln_bias; // [hidden]
    lk_weight qkv, out_proj, fc_in, fc_out;
} lk_layer;

// A member of a group of processes on this host. All members share the region, which starts as zeros.
typedef struct {
    void *region;         // shared memory of lk_group_bytes bytes
    int32_t rank, ranks;
    int64_t slot_bytes;   // a multiple of 64; longer messages are sent in pieces
    uint64_t epoch;       // starts at 0
    double timeout;       // seconds that a call waits for other members
    int32_t late;         // the member that did not answer in time
    int32_t calls;        // finished calls; the caller reads and resets this number, `bytes` and `seconds`
    int64_t bytes;
    double seconds;
} lk_group;

// A whole model or a part of it: the layers of a stage, or the heads, inner features and vocabulary of a shard.
typedef struct {
    int32_t hidden, layers, heads, head_dim, rotary_dim, inner, vocab;
    float epsilon;
    int32_t cache_type;               // LK_F32 or LK_BF16: the type of the cache and of activations that are not quantized
    const lk_layer *layer;            // [layers]
    const float *ln_weight, *ln_bias; // the last layer norm
    lk_weight head;
    const void *embedding;            // [embedding_rows][hidden] of cache_type, or null if the pass begins with `hidden_in`
    int64_t embedding_first, embedding_rows; // the first token and the number of tokens with rows here; other tokens get zeros
    const float *sin, *cos;           // [positions][rotary_dim / 2]
    int32_t (*add_up)(void *argument, float *data, int64_t count); // sums over all shards and returns 0 on success; or null
    void *add_up_argument;
    int32_t adds_residual;            // whether this shard adds the hidden state to its partial sums; only one shard does
    int32_t quantized_cache;          // LK_INT8 or LK_E4M3 if the cache holds bytes with scales; else cache_type says what it holds
} lk_model;

typedef struct {
    int32_t tokens, sequences, logits, soft;
    const int64_t *token_ids, *positions, *slot_mapping; // [tokens]
    const int32_t *starts;                               // [sequences + 1]
    const int32_t *slot_table;                           // [sequences][table_stride]
    int64_t table_stride;
    const int32_t *lengths;                              // [sequences]
    const int64_t *logit_rows;                           // [logits]
    const int64_t *soft_rows;                            // [soft]
    const float *soft_embeddings;                        // [soft][hidden]
    const float *hidden_in;                              // [tokens][hidden] from the previous stage, if there is no embedding
    float *hidden_out;                                   // [tokens][hidden] for the next stage, if there is no head
} lk_batch;

// The instruction set in use: "avx512_bf16", "avx512_vnni" or "avx2" on x86-64, "neon_bf16" (with i8mm), "neon_dotprod" or "neon"
// on 64-bit ARM, or "portable".
LK_API const char *lk_isa(void);
// Choose an instruction set by name, for tests. Returns 0; if the CPU or the build lacks the set, returns -1 and changes
// nothing.
LK_API int32_t lk_use_isa(const char *name);
// The checksum of this file when the library was built (`interface` in build.py). The caller compares it with its own copy,
// because a library with other structures would read the wrong memory.
LK_API const char *lk_interface(void);
// Ask for large pages for a buffer that has not been written yet. This has no effect if the system has no large pages.
LK_API void lk_advise_large_pages(void *data, int64_t bytes);

// The size of the packed data and of its scales in bytes.
LK_API int64_t lk_packed_bytes(int32_t type, int32_t out, int32_t in);
LK_API int64_t lk_scale_bytes(int32_t type, int32_t out, int32_t in);
// Pack a row-major matrix. What `values` and `scales` hold depends on the type:
//   LK_F32, LK_BF16, FP8: f32 or bf16 values. LK_INT8, LK_W8A8: int8 values.
//   LK_INT4: nibbles [out][in_padded / 2], the even input low, and fp16 scales [out][in_padded / group], where group is a
//         multiple of 32.
//   LK_SPARSE24: bf16 values [out][in_padded / 2], where `in` is padded to a multiple of 8. Instead of scales, there are bytes
//         [out][in_padded / 8] with one nibble for every four inputs (the first four low). Bits 0 and 1 of a nibble hold the
//         place of the first value, and bits 2 and 3 hold the place of the second one.
//   LK_SPARSE24_INT8: int8 values in the layout of LK_SPARSE24, and f32 scales [out], followed by the bytes of LK_SPARSE24.
LK_API void lk_pack(int32_t type, int32_t out, int32_t in, const void *values, int32_t values_type, const void *scales,
                    int32_t group, void *packed, void *packed_scales, int32_t threads);

// One forward pass. keys and values: [layers][num_slots][heads][head_dim] of cache_type, or bytes if quantized_cache is set; then
// key_scales and value_scales are f32 [layers][num_slots][heads]. logits: f32 [batch->logits][vocab].
// lk_workspace_create makes the workspace; the workspace grows when needed and serves one call at a time.
LK_API void *lk_workspace_create(void);
LK_API void lk_workspace_free(void *workspace);
// Returns 0, or the nonzero result of `add_up`.
LK_API int32_t lk_forward(const lk_model *model, const lk_batch *batch, void *keys, void *values, float *key_scales,
                          float *value_scales, int64_t num_slots, float *logits, void *workspace, int32_t threads);

// Single operations on row-major tensors of `type` (LK_F32 or LK_BF16).
LK_API void lk_linear(const lk_weight *weight, int32_t type, const void *x, int32_t tokens, int32_t gelu, void *out,
                      void *workspace, int32_t threads);
LK_API void lk_layer_norm(int32_t type, const void *x, const float *weight, const float *bias, float epsilon, int32_t tokens,
                          int32_t hidden, void *out, int32_t threads);
LK_API void lk_residual_layer_norm(int32_t type, const void *residual, const void *attention, const void *mlp,
                                   const float *weight, const float *bias, float epsilon, int32_t tokens, int32_t hidden,
                                   void *sum, void *out, int32_t threads);
LK_API void lk_rotary_cache_write(int32_t type, const void *qkv, const int64_t *positions, const float *sin, const float *cos,
                                  void *keys, void *values, const int64_t *slot_mapping, int32_t tokens, int32_t heads,
                                  int32_t head_dim, int32_t rotary_dim, void *query, int32_t threads);
LK_API void lk_attention(int32_t type, const void *query, const void *keys, const void *values, const int32_t *slot_table,
                         int64_t table_stride, const int32_t *starts, const int32_t *lengths, int32_t sequences,
                         int32_t heads, int32_t head_dim, void *out, void *workspace, int32_t threads);

// Sample one token for each row of logits f32 [rows][vocab], as labkit.ops.sample does; all other arrays are [rows].
LK_API void lk_sample(const float *logits, int32_t rows, int32_t vocab, const double *temperature, const int64_t *top_k,
                      const double *top_p, const int64_t *seeds, const int64_t *samples, const int64_t *positions,
                      int64_t *tokens, void *workspace, int32_t threads);

// The choice between working alone and with helpers (pace.h), for tests.
LK_API void *lk_pace_create(void);
LK_API void lk_pace_free(void *pace);
LK_API int32_t lk_pace_with_helpers(void *pace, int64_t work);
LK_API void lk_pace_took(void *pace, int64_t work, int32_t with_helpers, int64_t nanoseconds, int64_t lost);

// Collectives of a group; all members call the same collectives in the same order. A collective returns 0 on success, 1 if a
// member was late, or 2 after an abort. After status 1 or 2 the group cannot be used again, except that a member may repeat a
// broadcast that was late.
LK_API int64_t lk_group_bytes(int32_t ranks, int64_t slot_bytes);
LK_API void lk_group_abort(lk_group *group);
LK_API int32_t lk_group_all_reduce(void *group, float *data, int64_t count); // usable as `add_up`; adds in the order of the ranks
LK_API int32_t lk_group_broadcast(lk_group *group, int32_t root, void *data, int64_t bytes);
LK_API int32_t lk_group_gather(lk_group *group, int32_t root, const void *mine, int64_t bytes, void *all); // root: [ranks][bytes]

#ifdef __cplusplus
}
#endif
