// Decides whether a call works alone or with helpers.
//
// On an idle machine helpers make a call faster. While other programs use the cores, helpers can make it slower: the call waits
// for a helper without a core, or a helper takes the core of the calling thread. So, while there are signs of such delays, both
// ways to work are tried now and then, and the faster way is used. Times are compared only between calls with about the same
// work.
#pragma once
#include <cstdint>
#include <mutex>

class Pace {
  public:
    // Whether the next call with this work (in any unit) should use helpers.
    bool with_helpers(int64_t work);
    // Records that a call with this work took `nanoseconds`. For `lost` of them, the calling thread had no core or slept.
    void took(int64_t work, bool with_helpers, int64_t nanoseconds, int64_t lost);

  private:
    // The state of all calls with the same work, up to a factor of 2.
    struct Size {
        bool helped = true;        // the way in use: with helpers, or alone
        double mean[2] = {0, 0};   // nanoseconds per work, alone and with helpers; 0 if unknown
        double lost = 0;           // the share of the time that calls with helpers lost
        double since = 0;          // nanoseconds of calls since the last trial
        double interval = FIRST;   // nanoseconds of calls between two trials
        int probation = 0;         // the number of calls until the probation of the way that won last ends
        bool trial = false;        // whether the other way is on trial
        double trial_time = 0, trial_work = 0;
    };
    static void end_trial(Size &size);

    static constexpr double FIRST = 2e7;
    static constexpr int SIZES = 64;
    static int size_of(int64_t work) { return work > 1 ? 63 - __builtin_clzll((uint64_t)work) : 0; }
    Size sizes_[SIZES];
    std::mutex lock_;
};
