// Defines the threads of one call. The calling thread runs the code; at each stage it shares the work with other threads.
//
// `Team` has helpers (crew.h). `TorchTeam` is for single operations, which run between torch's operations. It uses the same
// OpenMP threads as torch. These threads spin for some milliseconds after each operation, so helpers would find no free core.
#pragma once
#include "crew.h"

class Team {
  public:
    // A team of at most `threads` threads, the calling thread included.
    explicit Team(int threads) : crew_(threads > 1 ? Crew::take(threads) : nullptr), threads_(threads) {}
    ~Team() {
        if (crew_) crew_->give_back();
    }
    Team(const Team &) = delete;
    Team &operator=(const Team &) = delete;

    // Divides [0, count) into pieces of `size`, calls work(thread, begin, end) for each piece, and returns when all pieces are
    // done. `thread` is less than the number of threads, and no two threads with the same number run at the same time.
    template <class Work> void share(int64_t count, int64_t size, Work work) {
        int64_t pieces = (count + size - 1) / size;
        auto piece = [&](int thread, int64_t i) { work(thread, i * size, (i + 1) * size < count ? (i + 1) * size : count); };
        if (!crew_ || pieces <= 1) {
            for (int64_t i = 0; i < pieces; i++) piece(0, i);
            return;
        }
        crew_->share(threads_, pieces, [](void *p, int thread, int64_t i) { (*(decltype(piece) *)p)(thread, i); }, &piece);
    }

  private:
    Crew *crew_;
    int threads_;
};

#ifdef _OPENMP
#include <omp.h>

class TorchTeam {
  public:
    explicit TorchTeam(int threads) : threads_(threads) {}

    // Does the same as `Team::share`.
    template <class Work> void share(int64_t count, int64_t size, Work work) {
        std::atomic<int64_t> next{0};
        auto take = [&](int thread) {
            for (int64_t begin; (begin = size * next.fetch_add(1, std::memory_order_relaxed)) < count;)
                work(thread, begin, begin + size < count ? begin + size : count);
        };
        if (threads_ <= 1 || count <= size) return take(0);
#pragma omp parallel num_threads(threads_)
        take(omp_get_thread_num());
    }

  private:
    int threads_;
};
#else
using TorchTeam = Team;
#endif
