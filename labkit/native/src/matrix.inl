// The products of bf16, int8 and int4 for CPUs that multiply small matrices: two outputs with two rows at a time. Two steps of the
// panels and of the inputs, interleaved, are such matrices. If the number of rows is odd, the last row uses dot products.

template <int M> LK_INLINE void matrix_tile_bf16(const uint16_t *w, int32_t in, const uint32_t *x, F16 *sum) {
    F4x2 acc[4][M / 2];
    for (int q = 0; q < 4; q++)
        for (int t = 0; t < M / 2; t++) acc[q][t] = to_floats(i4x2_set(0, 0));
    if (M % 2) sum[M - 1] = f16_zero();
    for (int32_t k = 0; k < in / 2; k += 2) {
        uint32x4_t inputs[M / 2];
        prefetch(w + (int64_t)k * 32), prefetch(w + (int64_t)(k + 1) * 32);
        for (int t = 0; t < M / 2; t++) inputs[t] = two_rows(x + (int64_t)k * M + 2 * t, M);
        for (int q = 0; q < 4; q++) {
            Matrices weights = two_steps(w + (int64_t)k * 32, q);
            for (int t = 0; t < M / 2; t++) acc[q][t] = multiply_bf16(acc[q][t], weights, inputs[t]);
        }
        if (M % 2)
            for (int s = k; s < k + 2; s++) sum[M - 1] = dot_bf16(sum[M - 1], w + (int64_t)s * 32, x[(int64_t)s * M + M - 1]);
    }
    for (int t = 0; t < M / 2; t++) {
        sum[2 * t] = first_rows(acc[0][t], acc[1][t], acc[2][t], acc[3][t]);
        sum[2 * t + 1] = second_rows(acc[0][t], acc[1][t], acc[2][t], acc[3][t]);
    }
}

// Adds the integer sums of a group, times the scales of the rows and of the weights.
template <int M>
LK_INLINE void add_group(I4x2 (*acc)[M / 2], I16 last, const float *scales, F16 of_weights, F16 *sum) {
    for (int t = 0; t < M / 2; t++) {
        F4x2 a = to_floats(acc[0][t]), b = to_floats(acc[1][t]), c = to_floats(acc[2][t]), d = to_floats(acc[3][t]);
        sum[2 * t] = f16_fma(first_rows(a, b, c, d), f16_mul(of_weights, f16_set(scales[2 * t])), sum[2 * t]);
        sum[2 * t + 1] = f16_fma(second_rows(a, b, c, d), f16_mul(of_weights, f16_set(scales[2 * t + 1])), sum[2 * t + 1]);
    }
    if (M % 2) sum[M - 1] = f16_fma(i16_to_f16(last), f16_mul(of_weights, f16_set(scales[M - 1])), sum[M - 1]);
}

template <int M>
LK_INLINE void matrix_tile_int8(const uint8_t *w, int32_t in, int32_t group, const int32_t *x, const float *scales,
                                const int32_t *starts, F16 *sum) {
    for (int m = 0; m < M; m++) sum[m] = f16_zero();
    for (int32_t g = 0; g < in / group; g++, scales += M, starts += M) {
        I4x2 acc[4][M / 2];
        I16 last = i16_set(starts[M - 1]);
        for (int q = 0; q < 4; q++)
            for (int t = 0; t < M / 2; t++) acc[q][t] = i4x2_set(starts[2 * t], starts[2 * t + 1]);
        for (int32_t k = g * (group / 4); k < (g + 1) * (group / 4); k += 2) {
            uint32x4_t inputs[M / 2];
            prefetch(w + (int64_t)k * 64), prefetch(w + (int64_t)(k + 1) * 64);
            for (int t = 0; t < M / 2; t++) inputs[t] = two_rows(x + (int64_t)k * M + 2 * t, M);
            for (int q = 0; q < 4; q++) {
                Matrices weights = two_steps(w + (int64_t)k * 64, q);
                for (int t = 0; t < M / 2; t++) acc[q][t] = multiply_int8(acc[q][t], weights, inputs[t]);
            }
            if (M % 2)
                for (int s = k; s < k + 2; s++) last = dot_int8(last, bytes_load(w + (int64_t)s * 64), x[(int64_t)s * M + M - 1]);
        }
        add_group<M>(acc, last, scales, f16_set(1.0f), sum);
    }
}

template <int M>
LK_INLINE void matrix_tile_int4(const uint8_t *w, const uint16_t *weight_scales, int32_t in, const int32_t *x, const float *scales,
                                const int32_t *starts, F16 *sum) {
    for (int m = 0; m < M; m++) sum[m] = f16_zero();
    for (int32_t g = 0; g < in / 32; g++, w += 256, x += 8 * M, scales += M, starts += M) {
        I4x2 acc[4][M / 2];
        I16 last = i16_set(starts[M - 1]);
        for (int q = 0; q < 4; q++)
            for (int t = 0; t < M / 2; t++) acc[q][t] = i4x2_set(starts[2 * t], starts[2 * t + 1]);
#pragma GCC unroll 1 // unrolled, the sums would not fit into the registers
        for (int j = 0; j < 4; j++) {
            uint32x4_t inputs[M / 2];
            prefetch(w + j * 64);
            for (int t = 0; t < M / 2; t++) inputs[t] = two_rows(x + 2 * j * M + 2 * t, M);
            for (int q = 0; q < 4; q++) {
                Matrices weights = two_steps_of_int4(w + j * 64, q);
                for (int t = 0; t < M / 2; t++) acc[q][t] = multiply_int4(acc[q][t], weights, inputs[t]);
            }
            if (M % 2) {
                Bytes both = bytes_load(w + j * 64);
                last = dot_int4(dot_int4(last, bytes_low(both), x[2 * j * M + M - 1]), bytes_high(both), x[2 * j * M + 2 * M - 1]);
            }
        }
        add_group<M>(acc, last, scales, f16_from_half(weight_scales + (int64_t)g * 16), sum);
    }
}
