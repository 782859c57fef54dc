// Runs single operations on row-major tensors, for engines that run a model operation by operation.
#include "activations.h"
#include "attend.h"
#include "dispatch.h"
#include "piece.h"
#include "team.h"

#include <cstring>
#include <memory>

namespace {

// Returns row `at` of a tensor as floats: the row itself, or a converted copy in `buffer`.
const float *row_of(int32_t type, const void *tensor, int64_t at, int64_t width, float *buffer) {
    if (type == LK_F32) return (const float *)tensor + at * width;
    kernels()->to_f32((const uint16_t *)tensor + at * width, width, buffer);
    return buffer;
}

void put_row(int32_t type, const float *row, int64_t at, int64_t width, void *tensor) {
    if (type == LK_F32)
        std::memcpy((float *)tensor + at * width, row, width * 4);
    else
        kernels()->to_bf16(row, width, (uint16_t *)tensor + at * width);
}

} // namespace

extern "C" {

void lk_linear(const lk_weight *weight, int32_t type, const void *x, int32_t tokens, int32_t gelu, void *out, void *workspace,
               int32_t threads) {
    Workspace &space = *(Workspace *)workspace;
    const Kernels &kernel = *kernels();
    threads = worthwhile((int64_t)tokens * weight->out * weight->in, threads);
    space.begin(activation_bytes(*weight, tokens) + Workspace::bytes_of<float>((int64_t)threads * weight->in));
    Activations a = take_activations(space, *weight, tokens);
    float *rows = space.take<float>((int64_t)threads * weight->in);
    Output to = {gelu ? STORE_GELU : STORE, (float *)out, weight->out, nullptr, type == LK_F32 ? nullptr : out};
    TorchTeam team(threads);
    team.share(tokens, 1, [&](int thread, int64_t begin, int64_t end) {
        for (int64_t t = begin; t < end; t++)
            kernel.pack_row(row_of(type, x, t, weight->in, rows + (int64_t)thread * weight->in), weight->in, (int32_t)t, &a);
    });
    team.share(round_up(weight->out, 16) / 16, piece(*weight, tokens),
               [&](int, int64_t begin, int64_t end) { kernel.product(weight, &a, (int32_t)begin, (int32_t)end, &to); });
}

void lk_layer_norm(int32_t type, const void *x, const float *weight, const float *bias, float epsilon, int32_t tokens,
                   int32_t hidden, void *out, int32_t threads) {
    threads = worthwhile(32 * (int64_t)tokens * hidden, threads);
    TorchTeam team(threads);
    std::unique_ptr<float[]> buffers(new float[2 * (int64_t)hidden * threads]);
    team.share(tokens, 4, [&](int thread, int64_t begin, int64_t end) {
        float *in = buffers.get() + 2 * (int64_t)hidden * thread, *normed = in + hidden;
        for (int64_t t = begin; t < end; t++) {
            kernels()->layer_norm(row_of(type, x, t, hidden, in), weight, bias, epsilon, hidden, normed);
            put_row(type, normed, t, hidden, out);
        }
    });
}

void lk_residual_layer_norm(int32_t type, const void *residual, const void *attention, const void *mlp, const float *weight,
                            const float *bias, float epsilon, int32_t tokens, int32_t hidden, void *sum, void *out, int32_t threads) {
    threads = worthwhile(32 * (int64_t)tokens * hidden, threads);
    TorchTeam team(threads);
    std::unique_ptr<float[]> buffers(new float[4 * (int64_t)hidden * threads]);
    team.share(tokens, 4, [&](int thread, int64_t begin, int64_t end) {
        float *total = buffers.get() + 4 * (int64_t)hidden * thread, *b0 = total + hidden, *b1 = b0 + hidden, *b2 = b1 + hidden;
        for (int64_t t = begin; t < end; t++) {
            const float *r = row_of(type, residual, t, hidden, b0), *a = row_of(type, attention, t, hidden, b1);
            const float *m = row_of(type, mlp, t, hidden, b2);
            if (type == LK_F32) { // write sum and norm directly to their destination
                float *kept = (float *)sum + t * hidden;
                for (int32_t i = 0; i < hidden; i++) kept[i] = a[i] + m[i] + r[i];
                kernels()->layer_norm(kept, weight, bias, epsilon, hidden, (float *)out + t * hidden);
                continue;
            }
            for (int32_t i = 0; i < hidden; i++) total[i] = a[i] + m[i] + r[i];
            put_row(type, total, t, hidden, sum);
            // The norm is computed from the rounded sum, because this is the sum that is stored.
            kernels()->layer_norm(row_of(type, sum, t, hidden, b0), weight, bias, epsilon, hidden, b1 == a ? b2 : b1);
            put_row(type, b1 == a ? b2 : b1, t, hidden, out);
        }
    });
}

void lk_rotary_cache_write(int32_t type, const void *qkv, const int64_t *positions, const float *sin, const float *cos,
                           void *keys, void *values, const int64_t *slot_mapping, int32_t tokens, int32_t heads, int32_t head_dim,
                           int32_t rotary_dim, void *query, int32_t threads) {
    int64_t width = (int64_t)heads * head_dim;
    threads = worthwhile(32 * tokens * width, threads);
    TorchTeam team(threads);
    std::unique_ptr<float[]> rows(new float[3 * width * threads]);
    team.share(tokens, 4, [&](int thread, int64_t begin, int64_t end) {
        float *row = rows.get() + 3 * width * thread;
        for (int64_t t = begin; t < end; t++) {
            const float *from = row_of(type, qkv, t, 3 * width, row);
            if (from != row) std::memcpy(row, from, 3 * width * 4);
            const float *s = sin + positions[t] * (rotary_dim / 2), *c = cos + positions[t] * (rotary_dim / 2);
            kernels()->rotate(row, 2 * heads, head_dim, s, c, rotary_dim); // rotate queries and keys
            put_row(type, row, t, width, query);
            put_row(type, row + width, slot_mapping[t], width, keys);
            put_row(type, row + 2 * width, slot_mapping[t], width, values);
        }
    });
}

void lk_attention(int32_t type, const void *query, const void *keys, const void *values, const int32_t *slot_table,
                  int64_t table_stride, const int32_t *starts, const int32_t *lengths, int32_t sequences, int32_t heads,
                  int32_t head_dim, void *out, void *workspace, int32_t threads) {
    Workspace &space = *(Workspace *)workspace;
    const Kernels &kernel = *kernels();
    int64_t width = (int64_t)heads * head_dim, tokens = starts[sequences], longest = longest_of(lengths, sequences);
    threads = worthwhile(4 * tokens * width * longest, threads);
    int32_t block = heads_of_piece(sequences, heads, threads), blocks = (heads + block - 1) / block;
    int64_t scratch = attend_scratch(kernel, longest, block, head_dim);
    space.begin(2 * Workspace::bytes_of<float>(tokens * width) + Workspace::bytes_of<float>(threads * scratch));
    float *wide = space.take<float>(tokens * width), *attended = space.take<float>(tokens * width);
    float *scratches = space.take<float>(threads * scratch);
    TorchTeam team(threads);
    team.share(tokens, 16, [&](int, int64_t begin, int64_t end) {
        for (int64_t t = begin; t < end; t++) {
            const float *row = row_of(type, query, t, width, wide + t * width);
            if (row != wide + t * width) std::memcpy(wide + t * width, row, width * 4);
        }
    });
    team.share((int64_t)sequences * blocks, 1, [&](int thread, int64_t begin, int64_t end) {
        for (int64_t unit = begin; unit < end; unit++) {
            int32_t s = (int32_t)(unit / blocks), first = (int32_t)(unit % blocks) * block;
            int32_t last = first + block < heads ? first + block : heads;
            AttentionShape shape = {heads, head_dim, lengths[s], starts[s + 1] - starts[s], slot_table + s * table_stride, 0, nullptr, nullptr};
            attend(kernel, shape, type, wide + starts[s] * width, width, keys, values, first, last,
                   scratches + thread * scratch, attended + starts[s] * width, width);
        }
    });
    team.share(tokens, 16, [&](int, int64_t begin, int64_t end) {
        for (int64_t t = begin; t < end; t++) put_row(type, attended + t * width, t, width, out);
    });
}
}
