// GPT-J's rotary positions: neighbouring pairs of the first `rotary_dim` dimensions of a head, turned in place.
#pragma once
#include <cstdint>

static inline void rotate(float *x, const float *sin, const float *cos, int32_t rotary_dim) {
    for (int32_t i = 0; i < rotary_dim / 2; i++) {
        float even = x[2 * i], odd = x[2 * i + 1];
        x[2 * i] = even * cos[i] - odd * sin[i];
        x[2 * i + 1] = odd * cos[i] + even * sin[i];
    }
}
