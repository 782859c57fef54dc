// Computes the attention of one sequence. The number of queries decides whether the decode or the prefill kernel runs.
#pragma once
#include "kernels.h"

static inline int64_t longest_of(const int32_t *lengths, int32_t sequences) {
    int64_t longest = 1;
    for (int32_t s = 0; s < sequences; s++) longest = lengths[s] > longest ? lengths[s] : longest;
    return longest;
}

// The number of floats of scratch memory that `attend` needs to compute this many heads at a time.
static inline int64_t attend_scratch(const Kernels &kernel, int64_t longest, int32_t heads, int32_t head_dim) {
    int64_t for_decode = heads * (2 * (longest + 16) + (2 + 8) * (int64_t)head_dim), for_prefill = kernel.prefill_scratch((int32_t)longest, head_dim) / 4;
    return round_up(for_decode > for_prefill ? for_decode : for_prefill, 64);
}

// Computes heads [first, last). query and out point to the first of `shape.queries` tokens. A stride is the number of floats
// from one token to the next.
static inline void attend(const Kernels &kernel, AttentionShape shape, int32_t type, const float *query, int64_t query_stride,
                          const void *keys, const void *values, int32_t first, int32_t last, float *scratch, float *out,
                          int64_t out_stride) {
    int32_t queries = shape.queries, length = shape.length;
    if (queries > 4) {
        for (int32_t head = first; head < last; head++)
            kernel.prefill(&shape, type, query, query_stride, keys, values, head, scratch, out, out_stride);
        return;
    }
    for (int32_t i = 0; i < queries; i++) { // with so few queries, packing keys and values would cost more than it saves
        shape.length = length - queries + i + 1;
        kernel.decode(&shape, type, query + i * query_stride, keys, values, first, last, scratch, out + i * out_stride);
    }
}
