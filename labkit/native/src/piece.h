// How a product is cut for the threads.
#pragma once
#include "kernels.h"

// Panels of one piece: a multiple of two, which the kernels take together, and worth a turn at the counter.
static inline int64_t piece(const lk_weight &w, int64_t rows) {
    int64_t panel_bytes = lk_packed_bytes(w.type, 16, w.in);
    return rows > 12 ? 2 : round_up(1 + (16 << 10) / panel_bytes, 2);
}

// Heads that one piece of attention takes: as many as leave a piece for every thread, so that rows are read in long runs.
static inline int32_t heads_of_piece(int32_t sequences, int32_t heads, int32_t threads) {
    int32_t block = heads;
    while (block > 1 && (int64_t)sequences * ((heads + block - 1) / block) < threads) block = (block + 1) / 2;
    return block;
}

// Threads that a call of `work` multiplications or so is worth: waking them up and waiting for each other costs more than a
// small call takes, and much more on a machine that has others to serve.
static inline int32_t worthwhile(int64_t work, int32_t threads) { return work < 4000000 ? 1 : threads; }
