// Packs weights into panels; native.h describes the layouts.
#include "dispatch.h"
#include "team.h"

#include <cstring>
#if defined(__linux__)
#include <sys/mman.h>
#include <unistd.h>
#endif

namespace {

struct Source {
    int32_t type, out, in, padded, values_type, group;
    const void *values, *scales;
};

uint16_t round_to_bf16(float x) {
    uint16_t word;
    kernels()->to_bf16(&x, 1, &word);
    return word;
}

float widen(uint16_t word) {
    uint32_t bits = (uint32_t)word << 16;
    float x;
    std::memcpy(&x, &bits, 4);
    return x;
}

float value_at(const Source &s, int64_t row, int64_t column) {
    int64_t at = row * s.in + column;
    return s.values_type == LK_F32 ? ((const float *)s.values)[at] : widen(((const uint16_t *)s.values)[at]);
}

// The code of each pair of places, indexed by the nibble of the pair; a nibble holds the left place in its low bits.
const uint8_t CODES[16] = {0, 0, 0, 0, 0, 0, 0, 0, 1, 3, 0, 0, 2, 4, 5, 0};

// Packs one row of a 2:4 sparse matrix. If the matrix has scales, the places of the values come after the scales.
template <typename Value> void pack_sparse(const Source &s, int64_t row, int64_t lane, Value *values, uint32_t *codes) {
    int64_t wide = round_up(s.in, 8);
    const Value *from = (const Value *)s.values + row * wide / 2;
    const uint8_t *places = (const uint8_t *)s.scales + (has_row_scales(s.type) ? (int64_t)s.out * 4 : 0) + row * wide / 8;
    for (int64_t four = 0; four < wide / 4; four++) {
        int nibble = four % 2 ? places[four / 2] >> 4 : places[four / 2] & 15;
        int64_t at = sizeof(Value) == 2 ? (four * 16 + lane) * 2 : ((four / 2 * 16 + lane) * 2 + four % 2) * 2;
        values[at] = from[2 * four], values[at + 1] = from[2 * four + 1];
        codes[four / 8 * 16 + lane] |= (uint32_t)CODES[nibble] << four % 8 * 4;
    }
}

bool in_bytes(const Source &s) { return s.type == LK_INT8 || s.type == LK_W8A8; }

void pack_panel(const Source &s, int64_t panel, char *packed, char *scales) {
    int64_t size = lk_packed_bytes(s.type, 16, s.in), words = s.padded / 32 * 16;
    char *to = packed + panel * size;
    std::memset(to, in_bytes(s) ? 128 : s.type == LK_INT4 ? 0x88 : 0, size);
    for (int64_t lane = 0; lane < 16; lane++) {
        int64_t row = panel * 16 + lane;
        if (row >= s.out) {
            if (has_row_scales(s.type)) ((float *)scales)[row] = 0.0f;
            continue;
        }
        if (has_row_scales(s.type)) ((float *)scales)[row] = ((const float *)s.scales)[row];
        if (s.type == LK_F32)
            for (int64_t k = 0; k < s.in; k++) ((float *)to)[k * 16 + lane] = value_at(s, row, k);
        else if (s.type == LK_BF16 || is_fp8(s.type))
            for (int64_t k = 0; k < s.in; k++)
                ((uint16_t *)to)[(k / 2 * 16 + lane) * 2 + k % 2] =
                    s.values_type == LK_BF16 ? ((const uint16_t *)s.values)[row * s.in + k] : round_to_bf16(value_at(s, row, k));
        else if (s.type == LK_SPARSE24)
            pack_sparse(s, row, lane, (uint16_t *)to, (uint32_t *)scales + panel * words);
        else if (s.type == LK_SPARSE24_INT8)
            pack_sparse(s, row, lane, (uint8_t *)to, (uint32_t *)scales + round_up(s.out, 16) + panel * words);
        else if (in_bytes(s)) {
            const int8_t *from = (const int8_t *)s.values + row * s.in;
            for (int64_t k = 0; k < s.in; k++) ((uint8_t *)to)[(k / 4 * 16 + lane) * 4 + k % 4] = (uint8_t)(from[k] + 128);
        } else {
            int64_t wide = round_up(s.in, s.group);
            const uint8_t *from = (const uint8_t *)s.values + row * wide / 2;
            const uint16_t *of_groups = (const uint16_t *)s.scales + row * (wide / s.group);
            for (int64_t k = 0; k < s.padded && k < wide; k++) {
                int nibble = k % 2 ? from[k / 2] >> 4 : from[k / 2] & 15;
                int64_t step = k % 32 / 4; // even steps go to the low nibble, odd steps to the high one
                uint8_t *byte = (uint8_t *)to + k / 32 * 256 + step / 2 * 64 + lane * 4 + k % 4;
                *byte = step % 2 ? (uint8_t)((*byte & 0x0f) | nibble << 4) : (uint8_t)((*byte & 0xf0) | nibble);
            }
            for (int64_t g = 0; g < s.padded / 32; g++) {
                int64_t group = g * 32 / s.group;
                ((uint16_t *)scales)[(panel * (s.padded / 32) + g) * 16 + lane] = of_groups[group];
            }
        }
    }
}

} // namespace

extern "C" {

int64_t lk_packed_bytes(int32_t type, int32_t out, int32_t in) {
    int64_t numbers = round_up(out, 16) * padded_in(type, in);
    return type == LK_INT4 || type == LK_SPARSE24_INT8 ? numbers / 2 : numbers * element_bytes(type);
}

int64_t lk_scale_bytes(int32_t type, int32_t out, int32_t in) {
    int64_t codes = is_sparse24(type) ? round_up(out, 16) * (padded_in(type, in) / 32) * 4 : 0;
    if (has_row_scales(type)) return round_up(out, 16) * 4 + codes;
    if (codes) return codes;
    return type == LK_INT4 ? round_up(out, 16) * (padded_in(type, in) / 32) * 2 : 0;
}

void lk_pack(int32_t type, int32_t out, int32_t in, const void *values, int32_t values_type, const void *scales, int32_t group,
             void *packed, void *packed_scales, int32_t threads) {
    Source source = {type, out, in, padded_in(type, in), values_type, group, values, scales};
    if (type == LK_INT4 || is_sparse24(type)) std::memset(packed_scales, 0, lk_scale_bytes(type, out, in));
    Team team(threads);
    team.share(round_up(out, 16) / 16, 4, [&](int, int64_t begin, int64_t end) {
        for (int64_t panel = begin; panel < end; panel++) pack_panel(source, panel, (char *)packed, (char *)packed_scales);
    });
}

void lk_advise_large_pages(void *data, int64_t bytes) {
#if defined(__linux__) && defined(MADV_HUGEPAGE)
    uintptr_t page = (uintptr_t)sysconf(_SC_PAGESIZE);
    uintptr_t begin = ((uintptr_t)data + page - 1) / page * page, end = ((uintptr_t)data + (uintptr_t)bytes) / page * page;
    if (begin < end) madvise((void *)begin, end - begin, MADV_HUGEPAGE);
#else
    (void)data, (void)bytes;
#endif
}
}
