// Divides work into pieces for the threads.
#pragma once
#include "kernels.h"

// The number of panels in a piece. It is a multiple of two, because kernels process two panels at a time, and so large that the
// cost of taking a piece is small compared with its work.
static inline int64_t piece(const lk_weight &w, int64_t rows) {
    int64_t panel_bytes = lk_packed_bytes(w.type, 16, w.in);
    return rows > 12 ? 2 : round_up(1 + (16 << 10) / panel_bytes, 2);
}

// The number of heads in a piece of attention: as many as possible, so that rows are long, but so few that every thread gets a
// piece.
static inline int32_t heads_of_piece(int32_t sequences, int32_t heads, int32_t threads) {
    int32_t block = heads;
    while (block > 1 && (int64_t)sequences * ((heads + block - 1) / block) < threads) block = (block + 1) / 2;
    return block;
}

// The number of threads to use for about `work` multiplications. For a small call, waking threads and waiting for them costs
// more than the work, and much more on a busy machine.
static inline int32_t worthwhile(int64_t work, int32_t threads) { return work < 4000000 ? 1 : threads; }
