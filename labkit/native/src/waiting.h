// Lets a thread wait for another thread: it spins for a moment, then it sleeps and leaves its core to other programs.
#pragma once
#include "system.h"

#include <atomic>
#include <chrono>
#include <cstdint>
#if LK_LINUX_THREADS
#include <linux/futex.h>
#include <sys/syscall.h>
#include <time.h>
#include <unistd.h>
#else
#include <condition_variable>
#include <mutex>
#include <thread>
#endif

static inline void pause_cpu() {
#if defined(__x86_64__)
    __builtin_ia32_pause();
#elif defined(__aarch64__)
    asm volatile("yield");
#endif
}

static inline int64_t nanoseconds() {
    return std::chrono::duration_cast<std::chrono::nanoseconds>(std::chrono::steady_clock::now().time_since_epoch()).count();
}

// Spins until `ready()` returns true, but no longer than `most` nanoseconds. Returns whether `ready()` returned true.
template <class Ready> bool spin(int64_t most, Ready ready) {
    for (int64_t begin = 0;;) {
        for (int i = 0; i < 32; i++) {
            if (ready()) return true;
            pause_cpu();
        }
        int64_t now = nanoseconds();
        if (!begin) begin = now;
        if (now - begin >= most) return false;
    }
}

// A number that threads of one process can sleep on. `sleep(value)` returns when the number is no longer `value` or after
// `wake`; it may also return early.
class Signal {
  public:
    std::atomic<uint32_t> value{0};

#if LK_LINUX_THREADS
    void sleep(uint32_t seen) { syscall(SYS_futex, &value, FUTEX_WAIT_PRIVATE, seen, nullptr, nullptr, 0); }
    void wake() { syscall(SYS_futex, &value, FUTEX_WAKE_PRIVATE, INT32_MAX, nullptr, nullptr, 0); }
#else
    void sleep(uint32_t seen) {
        std::unique_lock<std::mutex> lock(mutex_);
        changed_.wait(lock, [&] { return value.load() != seen; });
    }
    void wake() {
        { std::lock_guard<std::mutex> lock(mutex_); }
        changed_.notify_all();
    }

  private:
    std::mutex mutex_;
    std::condition_variable changed_;
#endif
};

// A number that several processes can sleep on, in memory that they share. `sleep` returns after at most `most` nanoseconds.
class SharedSignal {
  public:
    std::atomic<uint32_t> value, sleepers; // both are 0 at first, because new memory is filled with zeros

    // Call `ring` after a change for which other processes may wait.
    void ring() {
        value.fetch_add(1);
        if (!sleepers.load()) return;
#if LK_LINUX_THREADS
        syscall(SYS_futex, &value, FUTEX_WAKE, INT32_MAX, nullptr, nullptr, 0);
#endif
    }

    // Sleep unless `value` has changed since it was `seen`.
    void sleep(uint32_t seen, int64_t most) {
#if LK_LINUX_THREADS
        timespec limit = {(time_t)(most / 1000000000), (long)(most % 1000000000)};
        sleepers.fetch_add(1);
        if (value.load() == seen) syscall(SYS_futex, &value, FUTEX_WAIT, seen, &limit, nullptr, 0);
        sleepers.fetch_sub(1);
#else
        (void)seen;
        std::this_thread::sleep_for(std::chrono::nanoseconds(most < 50000 ? most : 50000));
#endif
    }
};
