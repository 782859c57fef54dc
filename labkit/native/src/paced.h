// Asks the `Pace` of this process how many threads a call should use, and tells it how long the call took.
#pragma once
#include "pace.h"
#include "waiting.h"

#include <time.h>

extern Pace process_pace;

class Paced {
  public:
    int32_t threads;

    // Begins a call with this work, which may use at most `most` threads. The destructor ends the call.
    Paced(int64_t work, int32_t most) : threads(most), work_(work) {
        if (most <= 1) return;
        helped_ = process_pace.with_helpers(work);
        if (!helped_) threads = 1;
        used_ = processor_time();
        began_ = nanoseconds();
    }
    ~Paced() {
        if (!began_) return;
        int64_t time = nanoseconds() - began_, used = processor_time() - used_;
        process_pace.took(work_, helped_, time, time > used ? time - used : 0);
    }
    Paced(const Paced &) = delete;
    Paced &operator=(const Paced &) = delete;

  private:
    // The processor time of the calling thread, in nanoseconds.
    static int64_t processor_time() {
        timespec time = {};
        clock_gettime(CLOCK_THREAD_CPUTIME_ID, &time);
        return time.tv_sec * INT64_C(1000000000) + time.tv_nsec;
    }

    int64_t work_, began_ = 0, used_ = 0;
    bool helped_ = false;
};
