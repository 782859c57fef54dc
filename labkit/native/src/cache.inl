// A quantized cache: one byte for each number, and one factor for each slot and head.

// The number that a byte of e4m3 stands for. Exponent and fraction, shifted into place, are a number that is 2^120 too small.
LK_INLINE float e4m3_to_f32(uint8_t byte) {
    float x = bits_f32((uint32_t)(byte & 0x7f) << 20) * 1.329227995784916e36f;
    return byte & 0x80 ? -x : x;
}

// The byte of a number that `round_to_fp8` has rounded to e4m3.
LK_INLINE uint8_t f32_to_e4m3(float x) {
    float small = x * 7.52316384526264e-37f; // 2^-120
    uint32_t word;
    __builtin_memcpy(&word, &small, 4);
    return (uint8_t)((word >> 24 & 0x80) | (word >> 20 & 0x7f));
}

static void to_cache(const float *x, int32_t type, int32_t heads, int32_t dim, void *bytes, float *scales) {
    float most = type == LK_INT8 ? 127.0f : 448.0f;
    for (int32_t h = 0; h < heads; h++, x += dim) {
        float largest = largest_magnitude(x, dim);
        scales[h] = largest * (1.0f / most);
        float inverse = most / (largest > 1e-30f ? largest : 1e-30f);
        if (type == LK_INT8) {
            int8_t *to = (int8_t *)bytes + (int64_t)h * dim;
#pragma omp simd
            for (int32_t i = 0; i < dim; i++) to[i] = (int8_t)(int32_t)((x[i] * inverse + 12582912.0f) - 12582912.0f);
            continue;
        }
        uint8_t *to = (uint8_t *)bytes + (int64_t)h * dim;
        for (int32_t i = 0; i < dim; i += 64) {
            float part[64];
            int32_t count = dim - i < 64 ? dim - i : 64;
            for (int32_t j = 0; j < count; j++) part[j] = x[i + j];
            round_to_fp8(part, count, inverse, most, 3, 121);
            for (int32_t j = 0; j < count; j++) to[i + j] = f32_to_e4m3(part[j]);
        }
    }
}

// `to` is LK_F32 or LK_BF16, the type of the numbers at `out`.
static void from_cache(const void *bytes, const float *scales, int32_t type, int32_t heads, int32_t dim, int32_t to, void *out) {
    for (int32_t h = 0; h < heads; h++) {
        float scale = scales[h];
        for (int32_t i = 0; i < dim; i += 16) {
            int32_t count = dim - i < 16 ? dim - i : 16;
            int64_t at = (int64_t)h * dim + i;
            float part[16] = {0};
            if (type == LK_INT8)
                for (int32_t j = 0; j < count; j++) part[j] = (float)((const int8_t *)bytes)[at + j] * scale;
            else
                for (int32_t j = 0; j < count; j++) part[j] = e4m3_to_f32(((const uint8_t *)bytes)[at + j]) * scale;
            if (to == LK_F32)
                f16_store_part((float *)out + at, f16_load(part), count);
            else
                convert_to_bf16(part, count, (uint16_t *)out + at);
        }
    }
}
