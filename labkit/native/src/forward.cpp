// Runs a forward pass of GPT-J over a flat batch of new tokens. One call runs all layers with the same team of threads.
//
// A block runs its matrix products in only two steps, because attention and MLP read the same layer norm:
//   x = pack(layer_norm(hidden));  qkv, inner = x [W_qkv | W_in];  attended = attention(rotary(qkv));
//   hidden += attended W_out + gelu(inner) W_down
#include "activations.h"
#include "attend.h"
#include "dispatch.h"
#include "paced.h"
#include "piece.h"
#include "team.h"
#include "workspace.h"

#include <cstring>

namespace {

struct Pass {
    const lk_model &model;
    const lk_batch &batch;
    char *keys, *values;
    float *key_scales, *value_scales;
    int64_t num_slots;
    float *logits;
    const Kernels &kernel;
    Team &team;
    // The workspace holds the rows of all tokens, the inputs of the matrix products, and for each thread one row and scratch
    // memory for attention.
    float *hidden = nullptr, *qkv = nullptr, *attended = nullptr, *inner = nullptr;
    Activations x = {}, of_attention = {}, of_inner = {}, of_head = {};
    float *rows = nullptr, *scratch = nullptr;
    int64_t row_floats = 0, scratch_floats = 0;
    int32_t head_block = 1;
    int32_t failure = 0;

    void run();
    void embed();
    void block(int layer);
    void attend(int layer);
    void attend_heads(int layer, int32_t sequence, int32_t first, int32_t last, int thread);
    void reduce();
    void panels(const lk_weight &w, const Activations &a, const Output &to, int64_t begin, int64_t end);
};

void Pass::panels(const lk_weight &w, const Activations &a, const Output &to, int64_t begin, int64_t end) {
    kernel.product(&w, &a, (int32_t)begin, (int32_t)end, &to);
}

// Replaces the partial hidden states by their sum over all members of the group.
void Pass::reduce() {
    if (model.add_up && !failure) failure = model.add_up(model.add_up_argument, hidden, batch.tokens * (int64_t)model.hidden);
}

void Pass::embed() {
    int64_t width = model.hidden;
    team.share(batch.tokens, 4, [&](int, int64_t begin, int64_t end) {
        for (int64_t t = begin; t < end; t++) {
            if (!model.embedding) {
                std::memcpy(hidden + t * width, batch.hidden_in + t * width, width * 4);
                continue;
            }
            int64_t token = batch.token_ids[t] - model.embedding_first;
            const char *row = (const char *)model.embedding + token * width * element_bytes(model.cache_type);
            if (token < 0 || token >= model.embedding_rows)
                std::memset(hidden + t * width, 0, width * 4);
            else if (model.cache_type == LK_F32)
                std::memcpy(hidden + t * width, row, width * 4);
            else
                kernel.to_f32(row, width, hidden + t * width);
        }
    });
    if (!model.embedding) return;
    reduce();
    for (int32_t s = 0; s < batch.soft; s++)
        std::memcpy(hidden + batch.soft_rows[s] * width, batch.soft_embeddings + s * width, width * 4);
}

void Pass::attend_heads(int layer, int32_t sequence, int32_t first, int32_t last, int thread) {
    int64_t dim = model.head_dim, width = model.heads * dim, begin = batch.starts[sequence], end = batch.starts[sequence + 1];
    int64_t layer_bytes = num_slots * width * (model.quantized_cache ? 1 : element_bytes(model.cache_type));
    char *layer_keys = keys + layer * layer_bytes, *layer_values = values + layer * layer_bytes;
    int64_t scales_at = layer * num_slots * model.heads;
    float *of_keys = model.quantized_cache ? key_scales + scales_at : nullptr;
    float *of_values = model.quantized_cache ? value_scales + scales_at : nullptr;
    for (int64_t t = begin; t < end; t++) {
        float *query = qkv + t * 3 * width, *key = query + width, *value = key + width;
        const float *sin = model.sin + batch.positions[t] * (model.rotary_dim / 2);
        const float *cos = model.cos + batch.positions[t] * (model.rotary_dim / 2);
        int64_t slot = batch.slot_mapping[t] * width;
        for (float *row : {query, key})
            kernel.rotate(row + first * dim, last - first, model.head_dim, sin, cos, model.rotary_dim);
        int64_t at = slot + first * dim, count = (last - first) * dim;
        if (model.quantized_cache) {
            int64_t factor = batch.slot_mapping[t] * model.heads + first;
            int32_t of = model.quantized_cache, heads = last - first;
            kernel.to_cache(key + first * dim, of, heads, model.head_dim, layer_keys + at, of_keys + factor);
            kernel.to_cache(value + first * dim, of, heads, model.head_dim, layer_values + at, of_values + factor);
        } else if (model.cache_type == LK_F32) {
            std::memcpy(layer_keys + at * 4, key + first * dim, count * 4);
            std::memcpy(layer_values + at * 4, value + first * dim, count * 4);
        } else {
            kernel.to_bf16(key + first * dim, count, layer_keys + at * 2);
            kernel.to_bf16(value + first * dim, count, layer_values + at * 2);
        }
    }
    int32_t queries = (int32_t)(end - begin);
    AttentionShape shape = {model.heads, model.head_dim, batch.lengths[sequence], queries, batch.slot_table + sequence * batch.table_stride,
                            model.quantized_cache, of_keys, of_values};
    ::attend(kernel, shape, model.cache_type, qkv + begin * 3 * width, 3 * width, layer_keys, layer_values, first, last,
             scratch + thread * scratch_floats, attended + begin * width, width);
}

void Pass::attend(int layer) {
    int64_t blocks = (model.heads + head_block - 1) / head_block;
    team.share(batch.sequences * blocks, 1, [&](int thread, int64_t begin, int64_t end) {
        for (int64_t unit = begin; unit < end; unit++) {
            int32_t first = (int32_t)(unit % blocks * head_block), last = (int32_t)(first + head_block);
            attend_heads(layer, (int32_t)(unit / blocks), first, last < model.heads ? last : model.heads, thread);
        }
    });
}

void Pass::block(int layer) {
    const lk_layer &l = model.layer[layer];
    int32_t tokens = batch.tokens, attention_width = model.heads * model.head_dim;
    int64_t width = model.hidden;
    x.input_scale = l.qkv.input_scale, of_attention.input_scale = l.out_proj.input_scale, of_inner.input_scale = l.fc_out.input_scale;
    team.share(tokens, 1, [&](int thread, int64_t begin, int64_t end) {
        for (int64_t t = begin; t < end; t++) {
            float *row = rows + thread * row_floats;
            kernel.layer_norm(hidden + t * width, l.ln_weight, l.ln_bias, model.epsilon, model.hidden, row);
            kernel.pack_row(row, model.hidden, (int32_t)t, &x);
        }
    });
    int64_t of_qkv = round_up(l.qkv.out, 16) / 16, of_in = round_up(l.fc_in.out, 16) / 16;
    Output to_qkv = {STORE, qkv, 3 * attention_width, nullptr, nullptr};
    bool direct = !rounds_rows(of_inner.type);
    Output to_inner = {STORE_GELU, inner, model.inner, direct ? &of_inner : nullptr, nullptr};
    team.share(of_qkv + of_in, piece(l.fc_in, tokens), [&](int, int64_t begin, int64_t end) {
        if (begin < of_qkv) panels(l.qkv, x, to_qkv, begin, end < of_qkv ? end : of_qkv);
        if (end > of_qkv) panels(l.fc_in, x, to_inner, begin > of_qkv ? begin - of_qkv : 0, end - of_qkv);
    });
    if (!model.adds_residual) std::memset(hidden, 0, tokens * width * sizeof(float));
    attend(layer);
    team.share(direct ? tokens : 2 * tokens, 1, [&](int, int64_t begin, int64_t end) {
        for (int64_t i = begin; i < end; i++)
            if (i < tokens)
                kernel.pack_row(attended + i * attention_width, attention_width, (int32_t)i, &of_attention);
            else
                kernel.pack_row(inner + (i - tokens) * model.inner, model.inner, (int32_t)(i - tokens), &of_inner);
    });
    Output add = {ADD, hidden, width, nullptr, nullptr};
    int64_t of_out = round_up(l.fc_out.out, 16) / 16;
    team.share(of_out, piece(l.fc_out, tokens), [&](int, int64_t begin, int64_t end) {
        panels(l.out_proj, of_attention, add, begin, end);
        panels(l.fc_out, of_inner, add, begin, end);
    });
    reduce();
}

void Pass::run() {
    embed();
    for (int layer = 0; layer < model.layers; layer++) block(layer);
    int64_t width = model.hidden;
    if (!model.head.data) {
        team.share(batch.tokens, 4, [&](int, int64_t begin, int64_t end) {
            std::memcpy(batch.hidden_out + begin * width, hidden + begin * width, (end - begin) * width * sizeof(float));
        });
        return;
    }
    team.share(batch.logits, 1, [&](int thread, int64_t begin, int64_t end) {
        for (int64_t i = begin; i < end; i++) {
            float *row = rows + thread * row_floats;
            kernel.layer_norm(hidden + batch.logit_rows[i] * width, model.ln_weight, model.ln_bias, model.epsilon, model.hidden, row);
            kernel.pack_row(row, model.hidden, (int32_t)i, &of_head);
        }
    });
    Output to = {STORE, logits, model.vocab, nullptr, nullptr};
    team.share(round_up(model.vocab, 16) / 16, piece(model.head, batch.logits),
               [&](int, int64_t begin, int64_t end) { panels(model.head, of_head, to, begin, end); });
}

} // namespace

extern "C" {

void *lk_workspace_create(void) { return new Workspace(); }

void lk_workspace_free(void *workspace) { delete (Workspace *)workspace; }

int32_t lk_forward(const lk_model *model, const lk_batch *batch, void *keys, void *values, float *key_scales, float *value_scales,
                   int64_t num_slots, float *logits, void *workspace, int32_t threads) {
    Workspace &space = *(Workspace *)workspace;
    const lk_layer &l = model->layer[0];
    int64_t tokens = batch->tokens, width = model->hidden, longest = longest_of(batch->lengths, batch->sequences);
    int64_t attention_width = (int64_t)model->heads * model->head_dim;
    int64_t of_layers = tokens * model->layers * (4 * attention_width * width + 2 * width * model->inner);
    int64_t work = of_layers + (int64_t)batch->logits * model->vocab * width;
    Paced paced(work, worthwhile(work, threads));
    threads = paced.threads;
    const Kernels &kernel = *kernels();
    int32_t head_block = heads_of_piece(batch->sequences, model->heads, threads);
    int64_t scratch_floats = attend_scratch(kernel, longest, head_block, model->head_dim), row_floats = round_up(width, 64);
    auto floats = Workspace::bytes_of<float>;
    space.begin(floats(tokens * width) + floats(tokens * 4 * attention_width) + floats(tokens * attention_width) + floats(tokens * model->inner) +
                floats(threads * row_floats) + floats(threads * scratch_floats) + activation_bytes(l.qkv, tokens) +
                activation_bytes(l.out_proj, tokens) + activation_bytes(l.fc_out, tokens) + activation_bytes(model->head, batch->logits));
    Team team(threads);
    Pass pass{*model, *batch, (char *)keys, (char *)values, key_scales, value_scales, num_slots, logits, kernel, team};
    pass.hidden = space.take<float>(tokens * width);
    pass.qkv = space.take<float>(tokens * 3 * attention_width);
    pass.attended = space.take<float>(tokens * attention_width);
    pass.inner = space.take<float>(tokens * model->inner);
    pass.row_floats = row_floats;
    pass.rows = space.take<float>(threads * row_floats);
    pass.scratch_floats = scratch_floats;
    pass.scratch = space.take<float>(threads * scratch_floats);
    pass.x = take_activations(space, l.qkv, (int32_t)tokens);
    pass.of_attention = take_activations(space, l.out_proj, (int32_t)tokens);
    pass.of_inner = take_activations(space, l.fc_out, (int32_t)tokens);
    pass.of_head = take_activations(space, model->head, batch->logits);
    pass.head_block = head_block;
    // Clear the padding after the last panel, because no other code writes it. NaN and infinity in the padding would survive
    // the multiplication by zero.
    if (round_up(model->inner, 16) < pass.of_inner.in && !rounds_rows(pass.of_inner.type))
        std::memset(pass.of_inner.data, 0, tokens * pass.of_inner.in * element_bytes(pass.of_inner.type));
    if (tokens) pass.run();
    return pass.failure;
}
}
