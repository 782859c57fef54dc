// Attention of one sequence over its cache: a single query straight from the cache, many through packed panels.

enum { BLOCK = 8 }; // positions that share one pass over the heads: as many streams, which the prefetchers follow

LK_INLINE float dot_heads(const float *query, const uint32_t *query16, const void *key, int32_t type, int32_t dim) {
    int32_t i = 0;
    float rest = 0.0f;
    F16 acc = f16_zero();
    if (type == LK_F32) {
        const float *k = (const float *)key;
        for (; i + 16 <= dim; i += 16) acc = f16_fma(f16_load(k + i), f16_load(query + i), acc);
        for (; i < dim; i++) rest += k[i] * query[i];
    } else {
        const uint16_t *k = (const uint16_t *)key;
#if defined(LK_AVX512_BF16)
        for (; i + 32 <= dim; i += 32)
            acc = _mm512_dpbf16_ps(acc, (__m512bh)_mm512_loadu_si512(k + i), (__m512bh)_mm512_loadu_si512(query16 + i / 2));
#else
        (void)query16;
#endif
        for (; i + 16 <= dim; i += 16) acc = f16_fma(f16_from_bf16(k + i), f16_load(query + i), acc);
        for (; i < dim; i++) rest += bits_f32((uint32_t)k[i] << 16) * query[i];
    }
    return f16_sum(acc) + rest;
}

// In place: scores to weights; gives what to divide by.
static float softmax(float *scores, int32_t length) {
    float largest = scores[0], sum = 0.0f;
#pragma omp simd reduction(max : largest)
    for (int32_t j = 0; j < length; j++) largest = scores[j] > largest ? scores[j] : largest;
#pragma omp simd reduction(+ : sum)
    for (int32_t j = 0; j < length; j++) {
        scores[j] = fast_exp(scores[j] - largest);
        sum += scores[j];
    }
    return sum;
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

// `scores` holds (last - first) * length floats and head_dim / 2 words a head behind them.
static void decode(const AttentionShape *s, int32_t type, const float *query, const void *keys, const void *values,
                   int32_t first, int32_t last, float *scores, float *out) {
    int32_t dim = s->head_dim, length = s->length;
    int64_t element = type == LK_F32 ? 4 : 2, row = (int64_t)s->heads * dim * element;
    float scale = 1.0f / __builtin_sqrtf((float)dim);
    uint32_t *query16 = (uint32_t *)(scores + (int64_t)(last - first) * length);
    for (int32_t h = first; h < last; h++) convert_to_bf16(query + h * dim, dim, (uint16_t *)query16 + (h - first) * dim);
    for (int32_t j = 0; j < length; j += BLOCK) {
        int32_t count = length - j < BLOCK ? length - j : BLOCK;
        for (int32_t h = first; h < last; h++)
            for (int32_t i = 0; i < count; i++) {
                const char *key = (const char *)keys + s->slots[j + i] * row + (int64_t)h * dim * element;
                const uint32_t *rounded = (const uint32_t *)((uint16_t *)query16 + (h - first) * dim);
                scores[(int64_t)(h - first) * length + j + i] = scale * dot_heads(query + h * dim, rounded, key, type, dim);
            }
    }
    for (int32_t h = first; h < last; h++) {
        float *weights = scores + (int64_t)(h - first) * length, inverse = 1.0f / softmax(weights, length);
        for (int32_t j = 0; j < length; j++) weights[j] *= inverse;
        for (int32_t i = 0; i < dim; i++) out[h * dim + i] = 0.0f;
    }
    for (int32_t j = 0; j < length; j += BLOCK) {
        int32_t count = length - j < BLOCK ? length - j : BLOCK;
        for (int32_t h = first; h < last; h++) {
            const void *rows[BLOCK];
            for (int32_t i = 0; i < count; i++)
                rows[i] = (const char *)values + s->slots[j + i] * row + (int64_t)h * dim * element;
            add_values(scores + (int64_t)(h - first) * length + j, rows, count, type, dim, out + h * dim);
        }
    }
}

static int64_t prefill_scratch(int32_t length, int32_t head_dim) {
    int64_t positions = round_up(length, 32), dim = round_up(head_dim, 32);
    return 4 * (2 * positions * dim + LK_TILE * (dim + 2 * positions)) + 256;
}

// One head's keys as a weight [positions][dim] and values as one [dim][positions], in panels.
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
        uint16_t *k = (uint16_t *)key_panels, *v = (uint16_t *)value_panels;
        __builtin_memset(k, 0, (int64_t)positions * padded_dim * 2);
        __builtin_memset(v, 0, (int64_t)positions * padded_dim * 2);
        for (int32_t j = 0; j < s->length; j++) {
            const uint16_t *key = (const uint16_t *)keys + s->slots[j] * row + head * dim;
            const uint16_t *value = (const uint16_t *)values + s->slots[j] * row + head * dim;
            for (int32_t i = 0; i < dim; i++) {
                k[(((int64_t)(j / 16) * padded_dim + (i & ~1)) * 16) + (j % 16) * 2 + (i & 1)] = key[i];
                v[(((int64_t)(i / 16) * positions + (j & ~1)) * 16) + (i % 16) * 2 + (j & 1)] = value[i];
            }
        }
    }
}

static void prefill(const AttentionShape *s, int32_t type, const float *query, int64_t query_stride, const void *keys,
                    const void *values, int32_t head, void *scratch, float *out, int64_t out_stride) {
    int32_t dim = s->head_dim, padded_dim = (int32_t)round_up(dim, 32), positions = (int32_t)round_up(s->length, 32);
    int64_t element = type == LK_F32 ? 4 : 2;
    char *at = (char *)scratch;
    char *key_panels = at, *value_panels = at + positions * padded_dim * element;
    float *scores = (float *)(value_panels + positions * padded_dim * element);
    char *query_rows = (char *)(scores + (int64_t)LK_TILE * positions), *weight_rows = query_rows + 4 * LK_TILE * padded_dim;
    pack_head(s, type, keys, values, head, key_panels, value_panels);
    lk_weight of_keys = {type, s->length, dim, key_panels, 0, 0};
    float scale = 1.0f / __builtin_sqrtf((float)dim);
    for (int32_t first = 0; first < s->queries; first += LK_TILE) {
        int32_t rows = s->queries - first < LK_TILE ? s->queries - first : LK_TILE;
        int32_t seen = s->length - s->queries + first + rows; // by the last row of the tile
        Activations queries = {type, rows, padded_dim, 0, query_rows, 0, 0};
        for (int32_t m = 0; m < rows; m++) pack_row(query + (first + m) * query_stride + head * dim, dim, m, &queries);
        Output to_scores = {STORE, scores, positions, 0, 0};
        product(&of_keys, &queries, 0, (seen + 15) / 16, &to_scores);
        Activations weights = {type, rows, (int32_t)round_up(seen, 32), 0, weight_rows, 0, 0};
        for (int32_t m = 0; m < rows; m++) {
            float *row = scores + (int64_t)m * positions;
            int32_t visible = seen - rows + m + 1;
#pragma omp simd
            for (int32_t j = 0; j < visible; j++) row[j] *= scale;
            float inverse = 1.0f / softmax(row, visible);
#pragma omp simd
            for (int32_t j = 0; j < visible; j++) row[j] *= inverse;
            pack_row(row, visible, m, &weights);
        }
        for (int32_t panel = 0; panel * 16 < dim; panel++) {
            lk_weight of_values = {type, dim - panel * 16, weights.in, value_panels + (int64_t)panel * positions * 16 * element, 0, 0};
            Output to_out = {STORE, out + first * out_stride + head * dim + panel * 16, out_stride, 0, 0};
            product(&of_values, &weights, 0, 1, &to_out);
        }
    }
}
