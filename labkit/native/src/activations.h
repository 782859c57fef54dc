// Takes room in a workspace for the activations that a weight is multiplied with. Their type matches the weight's type.
#pragma once
#include "kernels.h"
#include "workspace.h"

static inline Activations take_activations(Workspace &space, const lk_weight &w, int32_t rows) {
    Activations a = {};
    bool integers = w.type == LK_INT4 || w.type == LK_SPARSE24_INT8;
    a.type = integers ? (int32_t)LK_INT8 : w.type == LK_SPARSE24 ? (int32_t)LK_BF16 : w.type;
    a.rows = rows;
    a.in = padded_in(w.type, w.in);
    a.group = a.type != LK_INT8 ? 0 : w.type == LK_INT4 ? 32 : 128;
    a.input_scale = w.input_scale;
    a.data = space.take<char>((int64_t)rows * a.in * element_bytes(a.type));
    int64_t groups = rounds_rows(a.type) ? (int64_t)rows * (a.group ? a.in / a.group : 1) : 0;
    a.scales = space.take<float>(groups);
    a.starts = space.take<int32_t>(groups);
    return a;
}

// The most bytes that `take_activations` can take.
static inline size_t activation_bytes(const lk_weight &w, int64_t rows) {
    int64_t in = padded_in(w.type, w.in);
    return Workspace::bytes_of<float>(rows * in) + 2 * Workspace::bytes_of<float>(rows * (in / 32));
}
