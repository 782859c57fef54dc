// How a product is cut for the threads.
#pragma once
#include "kernels.h"

// Panels of one piece: enough pieces to share evenly, each big enough to be worth a turn at the counter.
static inline int64_t piece(const lk_weight &w, int64_t rows, int threads) {
    int64_t panels = round_up(w.out, 16) / 16, panel_bytes = lk_packed_bytes(w.type, 16, w.in);
    int64_t wanted = rows > 12 ? 2 : 1 + (64 << 10) / panel_bytes, fair = panels / (threads * 4);
    int64_t size = wanted < fair || fair < 1 ? wanted : fair;
    return round_up(size < 2 ? 2 : size, 2);
}
