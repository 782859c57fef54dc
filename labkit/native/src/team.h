// The threads of one call: a barrier that spins and then sleeps, and counters that hand out the pieces of work.
#pragma once
#include <atomic>
#include <cstdint>
#include <thread>
#include <vector>
#ifdef _OPENMP
#include <omp.h>
#endif
#ifdef __linux__
#include <linux/futex.h>
#include <sys/syscall.h>
#include <unistd.h>
#endif

static inline void pause_cpu() {
#if defined(__x86_64__)
    __builtin_ia32_pause();
#elif defined(__aarch64__)
    asm volatile("yield");
#endif
}

// Each thread works through its own range of pieces in order, which makes memory access fast. A thread that has finished takes
// pieces from the other ranges, so the call is not delayed if another program uses a core.
class Team {
  public:
    explicit Team(int stages) : stages_(stages) {}

    // Run work(thread) on at most `threads` threads. A team can run only once.
    template <class Work> void run(int threads, Work work) {
#ifdef _OPENMP
        if (threads > 1) {
#pragma omp parallel num_threads(threads)
            {
#pragma omp single
                begin(omp_get_num_threads());
                work(omp_get_thread_num());
            }
            return;
        }
#endif
        (void)threads;
        begin(1);
        work(0);
    }

    // Call work(begin, end) on pieces of `size` out of [0, count), until none is left. Each stage can be used only once.
    template <class Work> void share(int stage, int thread, int64_t count, int64_t size, Work work) {
        int64_t pieces = (count + size - 1) / size;
        for (int i = 0; i < threads_; i++) {
            int owner = (thread + i) % threads_;
            int64_t begin = pieces * owner / threads_, end = pieces * (owner + 1) / threads_;
            std::atomic<int64_t> &taken = counters_[(int64_t)stage * threads_ + owner].value;
            for (int64_t piece; (piece = begin + taken.fetch_add(1, std::memory_order_relaxed)) < end;)
                work(piece * size, (piece + 1) * size < count ? (piece + 1) * size : count);
        }
    }

    void barrier() {
        if (threads_ == 1) return;
        int phase = phase_.load(std::memory_order_acquire);
        if (arrived_.fetch_add(1, std::memory_order_acq_rel) == threads_ - 1) {
            arrived_.store(0, std::memory_order_relaxed);
            phase_.store(phase + 1);
            if (asleep_.load() != 0) wake();
            return;
        }
        for (int spins = 0; spins < SPINS; spins++) {
            if (phase_.load(std::memory_order_acquire) != phase) return;
            pause_cpu();
        }
        // Another program may use the core of a thread that is late. Let the late thread run on this core.
        asleep_.fetch_add(1);
        while (phase_.load() == phase) sleep(phase);
        asleep_.fetch_sub(1);
    }

  private:
    static constexpr int SPINS = 1024; // takes some tens of microseconds

    // Sleeps until `wake` is called. Returns at once if the phase has already changed.
    void sleep(int phase) {
#ifdef __linux__
        syscall(SYS_futex, &phase_, FUTEX_WAIT_PRIVATE, phase, nullptr, nullptr, 0);
#else
        (void)phase;
        std::this_thread::yield();
#endif
    }
    void wake() {
#ifdef __linux__
        syscall(SYS_futex, &phase_, FUTEX_WAKE_PRIVATE, threads_, nullptr, nullptr, 0);
#endif
    }

    struct alignas(64) Counter {
        std::atomic<int64_t> value{0};
    };
    void begin(int threads) {
        threads_ = threads;
        counters_ = std::vector<Counter>((size_t)stages_ * threads);
    }

    int stages_, threads_ = 1;
    std::vector<Counter> counters_;
    alignas(64) std::atomic<int> arrived_{0};
    alignas(64) std::atomic<int> phase_{0};
    alignas(64) std::atomic<int> asleep_{0};
};
