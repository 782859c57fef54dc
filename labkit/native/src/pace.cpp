#include "native.h"
#include "paced.h"

#include <algorithm>

namespace {

constexpr double SIGN = 0.1;         // working alone is tried if more than this share of the time is lost
constexpr double TRIAL_TIME = 8e6;   // the nanoseconds of a trial: longer than a program keeps a core while others wait for it
constexpr double HOPELESS = 2.0;     // a trial ends early if it takes this many times as long as usual,
constexpr double HOPELESS_TIME = 1e6; // and more than this many nanoseconds
constexpr double BETTER = 0.95;      // the way on trial wins if it takes less than this share of the usual time
constexpr int PROBATION = 64;
constexpr double LONGEST = 5e8;      // the most nanoseconds between two trials, unless they would cost too much
constexpr double COST = 0.01;        // the largest share of the time that trials may cost
constexpr double NEW = 1.0 / 16;     // the weight of the newest call in a mean

} // namespace

Pace process_pace;

bool Pace::with_helpers(int64_t work) {
    std::lock_guard<std::mutex> guard(lock_);
    Size &size = sizes_[size_of(work)];
    if (!size.trial && size.since >= size.interval && (!size.helped || size.lost > SIGN)) {
        size.trial = true;
        size.trial_time = size.trial_work = 0;
    }
    return size.trial ? !size.helped : size.helped;
}

void Pace::took(int64_t work, bool with_helpers, int64_t nanoseconds, int64_t lost) {
    std::lock_guard<std::mutex> guard(lock_);
    Size &size = sizes_[size_of(work)];
    double units = (double)std::max<int64_t>(work, 1), time = (double)std::max<int64_t>(nanoseconds, 1);
    if (with_helpers) size.lost += NEW * ((double)lost / time - size.lost);
    if (with_helpers == size.helped) {
        double &mean = size.mean[with_helpers];
        mean = mean ? mean + NEW * (time / units - mean) : time / units;
        size.since += time;
        if (size.probation && --size.probation == 0) size.interval = FIRST;
    } else if (size.trial) { // otherwise the call began before the last trial ended
        size.trial_time += time;
        size.trial_work += units;
        bool hopeless = size.trial_time > HOPELESS_TIME && size.trial_time > HOPELESS * size.mean[size.helped] * size.trial_work;
        if (hopeless || size.trial_time >= TRIAL_TIME) end_trial(size);
    }
}

void Pace::end_trial(Size &size) {
    double usual = size.mean[size.helped] * size.trial_work;
    size.mean[!size.helped] = size.trial_time / size.trial_work;
    size.trial = false;
    size.since = 0;
    if (size.trial_time < BETTER * usual) {
        // The way that won the last trial loses within its probation, so it had won by luck: trials become rarer from now on.
        if (size.probation) size.interval = std::min(2 * size.interval, LONGEST);
        size.helped = !size.helped;
        size.probation = PROBATION;
    } else {
        size.interval = std::max(std::min(2 * size.interval, LONGEST), (size.trial_time - usual) / COST);
    }
}

extern "C" {

void *lk_pace_create(void) { return new Pace(); }

void lk_pace_free(void *pace) { delete (Pace *)pace; }

int32_t lk_pace_with_helpers(void *pace, int64_t work) { return ((Pace *)pace)->with_helpers(work); }

void lk_pace_took(void *pace, int64_t work, int32_t with_helpers, int64_t nanoseconds, int64_t lost) {
    ((Pace *)pace)->took(work, with_helpers != 0, nanoseconds, lost);
}
}
