// Attention of one sequence over its cache: one query reads the cache directly, many queries read packed panels of it.

enum { BLOCK = 8 }; // positions that are processed together for all heads

// The slots of a sequence may lie anywhere, so the hardware cannot predict the next row. Prefetch this head's part of the next
// row.
LK_INLINE void prefetch_row(const char *row, int64_t bytes) {
    for (int64_t at = 0; at < bytes; at += 64) __builtin_prefetch(row + at, 0, 2);
}

#if defined(LK_PAIRED_BF16)

// The scores of four positions; the sums across four vectors are computed together.
LK_INLINE void dot_four(const uint16_t *query, const char *const *key, int64_t offset, int32_t dim, float *scores) {
    F16 a = f16_zero(), b = a, c = a, d = a;
    for (int32_t i = 0; i < dim; i += 32) {
        a = dot_pairs(a, key[0] + offset + 2 * i, query + i);
        b = dot_pairs(b, key[1] + offset + 2 * i, query + i);
        c = dot_pairs(c, key[2] + offset + 2 * i, query + i);
        d = dot_pairs(d, key[3] + offset + 2 * i, query + i);
    }
    store_four_sums(a, b, c, d, scores);
}

// Adds to `sums` the values of an even number of positions times their bf16 weights, two positions per step. `sums` holds
// every 32 dimensions in the order that unpacking produces: 0-3, 8-11, 16-19, 24-27, then the others.
LK_INLINE void add_pairs(const uint16_t *weight, const char *const *value, int64_t offset, int32_t count, int32_t dim, float *sums) {
    for (int32_t i = 0; i < dim; i += 32) {
        F16 low = f16_load(sums + i), high = f16_load(sums + i + 16);
        for (int32_t j = 0; j < count; j += 2) {
            uint32_t pair;
            __builtin_memcpy(&pair, weight + j, 4);
            add_pair(&low, &high, value[j] + offset + 2 * i, value[j + 1] + offset + 2 * i, pair);
        }
        f16_store(sums + i, low), f16_store(sums + i + 16, high);
    }
}

LK_INLINE void put_in_order(float *sums, int32_t dim) {
    for (int32_t i = 0; i < dim; i += 32) {
        float ordered[32];
        for (int32_t d = 0; d < 32; d++) ordered[d] = sums[i + (d % 8 < 4 ? 0 : 16) + d / 8 * 4 + d % 4];
        __builtin_memcpy(sums + i, ordered, sizeof ordered);
    }
}

#endif

LK_INLINE float dot_heads(const float *query, const void *key, int32_t type, int32_t dim) {
    int32_t i = 0;
    float rest = 0.0f;
    F16 acc = f16_zero();
    if (type == LK_F32) {
        const float *k = (const float *)key;
        for (; i + 16 <= dim; i += 16) acc = f16_fma(f16_load(k + i), f16_load(query + i), acc);
        for (; i < dim; i++) rest += k[i] * query[i];
    } else {
        const uint16_t *k = (const uint16_t *)key;
        for (; i + 16 <= dim; i += 16) acc = f16_fma(f16_from_bf16(k + i), f16_load(query + i), acc);
        for (; i < dim; i++) rest += bits_f32((uint32_t)k[i] << 16) * query[i];
    }
    return f16_sum(acc) + rest;
}

// Turns scores into weights e^((score - largest) * scale) in place, and pads the row with zeros to a multiple of sixteen. The
// row must have room for the padding. Returns the sum of the weights; the caller divides by it.
static float softmax(float *scores, int32_t length, float scale) {
    int32_t padded = (int32_t)round_up(length, 16);
    for (int32_t j = length; j < padded; j++) scores[j] = scores[0];
    F16 most = f16_load(scores), sum = f16_zero();
    for (int32_t j = 16; j < padded; j += 16) most = f16_max(most, f16_load(scores + j));
    F16 factor = f16_set(scale), shift = f16_set(-f16_largest(most) * scale);
    for (int32_t j = 0; j < padded; j += 16) f16_store(scores + j, f16_exp(f16_fma(f16_load(scores + j), factor, shift)));
    for (int32_t j = length; j < padded; j++) scores[j] = 0.0f;
    for (int32_t j = 0; j < padded; j += 16) sum = f16_add(sum, f16_load(scores + j));
    return f16_sum(sum);
}

// out[0..dim) += sum over `count` positions of weight[j] * value[j].
LK_INLINE void add_values(const float *weight, const void *const *value, int32_t count, int32_t type, int32_t dim, float *out) {
    int32_t i = 0;
    if (type == LK_F32) {
        for (; i + 16 <= dim; i += 16) {
            F16 acc = f16_load(out + i);
            for (int32_t j = 0; j < count; j++) acc = f16_fma(f16_load((const float *)value[j] + i), f16_set(weight[j]), acc);
            f16_store(out + i, acc);
        }
        for (; i < dim; i++)
            for (int32_t j = 0; j < count; j++) out[i] += ((const float *)value[j])[i] * weight[j];
    } else {
        for (; i + 16 <= dim; i += 16) {
            F16 acc = f16_load(out + i);
            for (int32_t j = 0; j < count; j++)
                acc = f16_fma(f16_from_bf16((const uint16_t *)value[j] + i), f16_set(weight[j]), acc);
            f16_store(out + i, acc);
        }
        for (; i < dim; i++)
            for (int32_t j = 0; j < count; j++) out[i] += bits_f32((uint32_t)((const uint16_t *)value[j])[i] << 16) * weight[j];
    }
}

// The same for a quantized cache. Heads [first, last) of each block are turned back into numbers of `type` in `wide`, which has
// room for BLOCK rows; their heads lie where they lie in a row of the cache.
template <class Work>
LK_INLINE void walk_quantized(const AttentionShape *s, const void *cache, const float *scales, int32_t type, int32_t first,
                              int32_t last, char *wide, Work work) {
    int64_t width = (int64_t)s->heads * s->head_dim, element = element_bytes(type), used = (int64_t)(last - first) * s->head_dim;
    const char *rows[BLOCK];
    for (int32_t j = 0; j < s->length; j += BLOCK) {
        int32_t count = s->length - j < BLOCK ? s->length - j : BLOCK;
        for (int32_t i = j + BLOCK; i < j + 2 * BLOCK && i < s->length; i++)
            prefetch_row((const char *)cache + s->slots[i] * width + first * s->head_dim, used);
        for (int32_t i = 0; i < BLOCK; i++) {
            rows[i] = wide + (i < count ? i : 0) * used * element - first * s->head_dim * element;
            if (i >= count) continue;
            int64_t slot = s->slots[j + i];
            from_cache((const char *)cache + slot * width + first * s->head_dim, scales + slot * s->heads + first, s->cache_type,
                       last - first, s->head_dim, type, wide + i * used * element);
        }
        work(j, count, rows);
    }
}

// Goes over the cache in blocks of positions, calls work(first position, count, rows) and prefetches the following blocks.
template <class Work>
LK_INLINE void walk(const AttentionShape *s, const void *cache, int64_t row, int64_t offset, int64_t bytes, Work work) {
    int32_t ahead = bytes >= 1024 ? BLOCK : (int32_t)(8192 / bytes + BLOCK) / BLOCK * BLOCK; // some kilobytes
    for (int32_t j = 0; j < s->length; j += BLOCK) {
        const char *rows[BLOCK];
        int32_t count = s->length - j < BLOCK ? s->length - j : BLOCK;
        for (int32_t i = 0; i < BLOCK; i++) rows[i] = (const char *)cache + s->slots[j + (i < count ? i : 0)] * row;
        for (int32_t i = j + ahead; i < j + ahead + BLOCK && i < s->length; i++)
            prefetch_row((const char *)cache + s->slots[i] * row + offset, bytes);
        work(j, count, rows);
    }
}

// `scores` has room for 2 * (length + 16 + head_dim) floats per head, and with a quantized cache for BLOCK more rows of heads.
static void decode(const AttentionShape *s, int32_t type, const float *query, const void *keys, const void *values,
                   int32_t first, int32_t last, float *scores, float *out) {
    int32_t dim = s->head_dim, length = s->length;
    int64_t element = element_bytes(type), row = (int64_t)s->heads * dim * element, stride = round_up(length, 16);
    int64_t offset = first * dim * element, bytes = (last - first) * dim * element;
    float scale = 1.0f / __builtin_sqrtf((float)dim);
    uint16_t *rounded = (uint16_t *)(scores + (last - first) * stride); // queries, then weights
    bool in_pairs = false;
    char *wide = (char *)(scores + (last - first) * (2 * (stride + dim))); // rows of a quantized cache, turned back
    auto go_over = [&](const void *cache, const float *scales, auto work) {
        if (scales)
            walk_quantized(s, cache, scales, type, first, last, wide, work);
        else
            walk(s, cache, row, offset, bytes, work);
    };
#if defined(LK_PAIRED_BF16)
    in_pairs = type == LK_BF16 && dim % 32 == 0;
    if (in_pairs) {
        convert_to_bf16(query + first * dim, (last - first) * dim, rounded);
        go_over(keys, s->key_scales, [&](int32_t j, int32_t, const char *const *rows) {
            for (int32_t h = first; h < last; h++) {
                float *to = scores + (h - first) * stride + j;
                dot_four(rounded + (h - first) * dim, rows, h * dim * element, dim, to);
                dot_four(rounded + (h - first) * dim, rows + 4, h * dim * element, dim, to + 4);
            }
        });
    }
#endif
    if (!in_pairs)
        go_over(keys, s->key_scales, [&](int32_t j, int32_t count, const char *const *rows) {
            for (int32_t h = first; h < last; h++)
                for (int32_t i = 0; i < count; i++)
                    scores[(h - first) * stride + j + i] = dot_heads(query + h * dim, rows[i] + h * dim * element, type, dim);
        });
    float *inverses = (float *)(rounded + 2 * (last - first) * stride);
    for (int32_t h = first; h < last; h++) {
        float *weights = scores + (h - first) * stride;
        inverses[h - first] = 1.0f / softmax(weights, length, scale);
        if (in_pairs) convert_to_bf16(weights, stride, rounded + (h - first) * stride);
        for (int32_t i = 0; i < dim; i++) out[h * dim + i] = 0.0f;
    }
    go_over(values, s->value_scales, [&](int32_t j, int32_t count, const char *const *rows) {
        for (int32_t h = first; h < last; h++) {
            const float *weights = scores + (h - first) * stride;
#if defined(LK_PAIRED_BF16)
            if (in_pairs) {
                add_pairs(rounded + (h - first) * stride + j, rows, h * dim * element, BLOCK, dim, out + h * dim);
                continue;
            }
#endif
            const void *of_head[BLOCK];
            for (int32_t i = 0; i < count; i++) of_head[i] = rows[i] + h * dim * element;
            add_values(weights + j, of_head, count, type, dim, out + h * dim);
        }
    });
    for (int32_t h = first; h < last; h++) {
#if defined(LK_PAIRED_BF16)
        if (in_pairs) put_in_order(out + h * dim, dim);
#endif
        for (int32_t i = 0; i < dim; i++) out[h * dim + i] *= inverses[h - first];
    }
}

static int64_t prefill_scratch(int32_t length, int32_t head_dim) {
    int64_t positions = round_up(length, 32), dim = round_up(head_dim, 32);
    int64_t for_quantized = 4 * (2 * positions * dim + positions) + 64; // the head turned back, and an order of slots
    return 4 * (2 * positions * dim + LK_TILE * (dim + 2 * positions)) + 256 + for_quantized;
}

// Packs the keys of one head as a weight [positions][dim] and its values as a weight [dim][positions], in panels.
static void pack_head(const AttentionShape *s, int32_t type, const void *keys, const void *values, int32_t head, char *key_panels,
                      char *value_panels) {
    int32_t dim = s->head_dim, padded_dim = (int32_t)round_up(dim, 32), positions = (int32_t)round_up(s->length, 32);
    int64_t row = (int64_t)s->heads * dim;
    if (type == LK_F32) {
        float *k = (float *)key_panels, *v = (float *)value_panels;
        __builtin_memset(k, 0, (int64_t)positions * padded_dim * 4);
        __builtin_memset(v, 0, (int64_t)positions * padded_dim * 4);
        for (int32_t j = 0; j < s->length; j++) {
            const float *key = (const float *)keys + s->slots[j] * row + head * dim;
            const float *value = (const float *)values + s->slots[j] * row + head * dim;
            for (int32_t i = 0; i < dim; i++) {
                k[((int64_t)(j / 16) * padded_dim + i) * 16 + j % 16] = key[i];
                v[((int64_t)(i / 16) * positions + j) * 16 + i % 16] = value[i];
            }
        }
    } else {
        // In the packed keys, a 32-bit word holds two dimensions. In the packed values, a 32-bit word holds two positions, so
        // two rows are interleaved.
        uint32_t *k = (uint32_t *)key_panels, *v = (uint32_t *)value_panels;
        __builtin_memset(k, 0, (int64_t)positions * padded_dim * 2);
        __builtin_memset(v, 0, (int64_t)positions * padded_dim * 2);
        for (int32_t j = 0; j < s->length; j++) {
            const uint16_t *key = (const uint16_t *)keys + s->slots[j] * row + head * dim;
            if (j + 16 < s->length) {
                prefetch_row((const char *)((const uint16_t *)keys + s->slots[j + 16] * row + head * dim), 2 * dim);
                prefetch_row((const char *)((const uint16_t *)values + s->slots[j + 16] * row + head * dim), 2 * dim);
            }
            uint32_t *to = k + (int64_t)(j / 16) * padded_dim * 8 + j % 16;
            for (int32_t i = 0; i < dim; i += 2) to[i * 8] = key[i] | (i + 1 < dim ? (uint32_t)key[i + 1] << 16 : 0);
        }
        for (int32_t j = 0; j < s->length; j += 2) {
            const uint16_t *even = (const uint16_t *)values + s->slots[j] * row + head * dim;
            bool pair = j + 1 < s->length;
            const uint16_t *odd = pair ? (const uint16_t *)values + s->slots[j + 1] * row + head * dim : even;
            uint32_t keep = pair ? 0xffffffffu : 0xffffu;
            for (int32_t panel = 0; panel * 16 < dim; panel++) {
                uint32_t *to = v + (int64_t)panel * positions * 8 + j * 8;
                int32_t count = dim - panel * 16 < 16 ? dim - panel * 16 : 16;
                for (int32_t i = 0; i < count; i++)
                    to[i] = (even[panel * 16 + i] | (uint32_t)odd[panel * 16 + i] << 16) & keep;
            }
        }
    }
}

static void prefill(const AttentionShape *s, int32_t type, const float *query, int64_t query_stride, const void *keys,
                    const void *values, int32_t head, void *scratch, float *out, int64_t out_stride) {
    int32_t dim = s->head_dim, padded_dim = (int32_t)round_up(dim, 32), positions = (int32_t)round_up(s->length, 32);
    int64_t element = element_bytes(type);
    char *at = (char *)scratch;
    char *key_panels = at, *value_panels = at + positions * padded_dim * element;
    float *scores = (float *)(value_panels + positions * padded_dim * element);
    char *query_rows = (char *)(scores + (int64_t)LK_TILE * positions), *weight_rows = query_rows + 4 * LK_TILE * padded_dim;
    if (s->key_scales) {
        // The head's keys and values, turned back, as a cache of one head whose slots are the positions.
        char *wide_keys = weight_rows + 4 * LK_TILE * (int64_t)positions, *wide_values = wide_keys + (int64_t)positions * dim * element;
        int32_t *order = (int32_t *)(wide_values + round_up((int64_t)positions * dim * element, 8));
        int64_t width = (int64_t)s->heads * dim;
        for (int32_t j = 0; j < s->length; j++) {
            int64_t slot = s->slots[j], at = slot * width + head * dim, factor = slot * s->heads + head;
            order[j] = j;
            from_cache((const char *)keys + at, s->key_scales + factor, s->cache_type, 1, dim, type, wide_keys + j * dim * element);
            from_cache((const char *)values + at, s->value_scales + factor, s->cache_type, 1, dim, type, wide_values + j * dim * element);
        }
        AttentionShape one = {1, dim, s->length, s->queries, order, 0, 0, 0};
        pack_head(&one, type, wide_keys, wide_values, 0, key_panels, value_panels);
    } else
        pack_head(s, type, keys, values, head, key_panels, value_panels);
    lk_weight of_keys = {type, s->length, dim, key_panels, 0, 0};
    float scale = 1.0f / __builtin_sqrtf((float)dim);
    for (int32_t first = 0; first < s->queries; first += LK_TILE) {
        int32_t rows = s->queries - first < LK_TILE ? s->queries - first : LK_TILE;
        int32_t seen = s->length - s->queries + first + rows; // positions that the last row of the tile sees
        Activations queries = {type, rows, padded_dim, 0, query_rows, 0, 0};
        for (int32_t m = 0; m < rows; m++) pack_row(query + (first + m) * query_stride + head * dim, dim, m, &queries);
        Output to_scores = {STORE, scores, positions, 0, 0};
        product(&of_keys, &queries, 0, (seen + 15) / 16, &to_scores);
        Activations weights = {type, rows, (int32_t)round_up(seen, 32), 0, weight_rows, 0, 0};
        float inverses[LK_TILE];
        for (int32_t m = 0; m < rows; m++) {
            float *row = scores + (int64_t)m * positions;
            int32_t visible = seen - rows + m + 1;
            inverses[m] = 1.0f / softmax(row, visible, scale);
            pack_row(row, visible, m, &weights);
        }
        float *tile_out = out + first * out_stride + head * dim;
        for (int32_t panel = 0; panel * 16 < dim; panel++) {
            lk_weight of_values = {type, dim - panel * 16, weights.in, value_panels + (int64_t)panel * positions * 16 * element, 0, 0};
            Output to_out = {STORE, tile_out + panel * 16, out_stride, 0, 0};
            product(&of_values, &weights, 0, 1, &to_out);
        }
        for (int32_t m = 0; m < rows; m++)
            for (int32_t i = 0; i < dim; i++) tile_out[m * out_stride + i] *= inverses[m];
    }
}
