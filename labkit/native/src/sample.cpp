// Samples one token per row with temperature, top-k and top-p, as labkit.ops.sample does. The random number of a row depends
// only on the row's own seed, sample and position.
//
// Tokens are put into bins by their distance from the largest logit. The counts and weights of the bins show which bin holds
// the last token that top-k or top-p keeps. Only the tokens of that bin are sorted.
#include "dispatch.h"
#include "team.h"
#include "workspace.h"

#include <algorithm>
#include <cmath>
#include <limits>

namespace {

constexpr int32_t MOST_BINS = 4096, BLOCK_TOKENS = 256;

int32_t bins_of(int32_t vocab) { return std::min(MOST_BINS, std::max(16, vocab / 8)); }
constexpr double ENDLESS = std::numeric_limits<double>::infinity();

// SplitMix64's mixer (Steele et al. 2014), applied three times as in labkit.ops.uniform.
uint64_t mixed(uint64_t z) {
    z = (z ^ (z >> 30)) * 0xBF58476D1CE4E5B9ull;
    z = (z ^ (z >> 27)) * 0x94D049BB133111EBull;
    return z ^ (z >> 31);
}

double uniform(int64_t seed, int64_t sample, int64_t position) {
    uint64_t state = 0;
    for (int64_t word : {seed, sample, position}) state = mixed((state ^ (uint64_t)word) + 0x9E3779B97F4A7C15ull);
    return (double)(state >> 11) / 9007199254740992.0; // 2^53
}

// The last token that is kept, in descending order of logits; among equal logits the lower token comes first.
struct Cut {
    float logit;
    int32_t token;
    bool keeps(float x, int32_t i) const { return x > logit || (x == logit && i <= token); }
};

struct Row {
    const float *logits;
    int32_t vocab, bins;
    double *weights; // e^((logit - largest) / temperature)
    double *sums;    // the sum of the weights of each bin; `counts` holds its number of tokens
    int32_t *counts, *members;
    float largest, bins_per_logit;

    int32_t bin(int32_t i) const {
        float at = (largest - logits[i]) * bins_per_logit; // a larger logit never gets a later bin
        return at < bins - 1 ? (int32_t)at : bins - 1;
    }

    void fill_bins(float smallest, double temperature) {
        double range = (double)largest - smallest;
        bins_per_logit = (float)std::fmax(bins / 64.0 / temperature, range > 0 ? bins / range : 0.0);
        std::fill(sums, sums + bins, 0.0);
        std::fill(counts, counts + bins, 0);
        for (int32_t i = 0; i < vocab; i++) {
            int32_t b = bin(i);
            sums[b] += weights[i];
            counts[b]++;
        }
    }

    // Returns the first token at which the number of tokens reaches `count` or the sum of their weights reaches `weight`.
    // Stores in `reached` the sum of the weights up to this token.
    Cut reach(int64_t count, double weight, double *reached) const {
        int64_t seen = 0;
        double sum = 0.0;
        int32_t b = 0;
        for (; b < bins - 1 && seen + counts[b] < count && sum + sums[b] < weight; b++) seen += counts[b], sum += sums[b];
        int32_t found = 0;
        for (int32_t i = 0; i < vocab; i++)
            if (bin(i) == b && logits[i] == logits[i]) members[found++] = i; // NaN cannot be sorted
        std::sort(members, members + found,
                  [&](int32_t i, int32_t j) { return logits[i] != logits[j] ? logits[i] > logits[j] : i < j; });
        for (int32_t m = 0; m < found; m++) {
            int32_t i = members[m];
            *reached = sum += weights[i];
            if (++seen >= count || sum >= weight || m == found - 1) return {logits[i], i};
        }
        *reached = sum; // the last bin is empty or holds only NaN: keep everything
        return {-std::numeric_limits<float>::infinity(), vocab};
    }

    double weight_of(int32_t begin, int32_t end, const Cut *cut) const {
        double sum = 0.0;
        if (cut)
            for (int32_t i = begin; i < end; i++) sum += cut->keeps(logits[i], i) ? weights[i] : 0.0;
        else
#pragma omp simd reduction(+ : sum)
            for (int32_t i = begin; i < end; i++) sum += weights[i];
        return sum;
    }

    // Returns the token at which the running sum of kept weights passes the fraction `point` of the total. The bins are no
    // longer needed, so `sums` now holds the sums of blocks of tokens.
    int64_t draw(double point, const Cut *cut) {
        double whole = 0.0;
        for (int32_t at = 0, b = 0; at < vocab; at += BLOCK_TOKENS, b++)
            whole += sums[b] = weight_of(at, std::min(at + BLOCK_TOKENS, vocab), cut);
        double target = point * whole, sum = 0.0, running = 0.0;
        int32_t begin = 0;
        for (int32_t at = 0, b = 0; at < vocab && !(sum > target); at += BLOCK_TOKENS, b++) {
            if (sums[b] > 0.0) begin = at, running = sum;
            sum += sums[b];
        }
        int32_t token = begin; // if rounding keeps every sum below the target, the last token with a weight is taken
        for (int32_t i = begin; i < std::min(begin + BLOCK_TOKENS, vocab) && !(running > target); i++) {
            if (!(weights[i] > 0.0) || (cut && !cut->keeps(logits[i], i))) continue;
            token = i;
            running += weights[i];
        }
        return token;
    }

    int64_t sample(double temperature, int64_t top_k, double top_p, double point) {
        float smallest;
        int32_t first = kernels()->extremes(logits, vocab, &largest, &smallest);
        if (!(temperature > 0.0)) return first;
        kernels()->softmax_weights(logits, vocab, largest, temperature, weights);
        bool by_count = top_k > 0 && top_k < vocab, by_weight = top_p < 1.0;
        if (!by_count && !by_weight) return draw(point, nullptr);
        fill_bins(smallest, temperature);
        double rest = 0.0;
        for (int32_t b = 0; b < bins; b++) rest += sums[b];
        Cut cut = {-std::numeric_limits<float>::infinity(), vocab};
        if (by_count) cut = reach(top_k, ENDLESS, &rest);
        if (by_weight) {
            double reached;
            Cut nucleus = reach(vocab, top_p * rest, &reached);
            if (cut.keeps(nucleus.logit, nucleus.token)) cut = nucleus;
        }
        return draw(point, &cut);
    }
};

} // namespace

extern "C" void lk_sample(const float *logits, int32_t rows, int32_t vocab, const double *temperature, const int64_t *top_k,
                          const double *top_p, const int64_t *seeds, const int64_t *samples, const int64_t *positions,
                          int64_t *tokens, void *workspace, int32_t threads) {
    Workspace &space = *(Workspace *)workspace;
    threads = std::min(rows, (int64_t)rows * vocab < 200000 ? 1 : threads);
    int32_t bins = bins_of(vocab);
    int64_t of_sums = std::max(bins, vocab / BLOCK_TOKENS + 1);
    space.begin(threads * (Workspace::bytes_of<double>(vocab) + Workspace::bytes_of<double>(of_sums) +
                           Workspace::bytes_of<int32_t>(bins) + Workspace::bytes_of<int32_t>(vocab)));
    double *weights = space.take<double>((int64_t)threads * vocab), *sums = space.take<double>(threads * of_sums);
    int32_t *counts = space.take<int32_t>(threads * bins), *members = space.take<int32_t>((int64_t)threads * vocab);
    Team team(threads);
    team.share(rows, 1, [&](int thread, int64_t begin, int64_t end) {
        for (int64_t r = begin; r < end; r++) {
            Row row = {logits + r * vocab, vocab, bins, weights + (int64_t)thread * vocab, sums + thread * of_sums,
                       counts + thread * bins, members + (int64_t)thread * vocab, 0.0f, 0.0f};
            tokens[r] = row.sample(temperature[r], top_k[r], top_p[r], uniform(seeds[r], samples[r], positions[r]));
        }
    });
}
