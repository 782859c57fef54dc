// Lets a waiting thread lend its core to the thread that it waits for.
//
// Suppose that another program has taken the core of a thread that holds a piece of work. The scheduler gives the core back
// only after some milliseconds, which is much longer than the piece takes. The waiting thread has a core that it does not need,
// so it moves the other thread to this core and then sleeps.
#pragma once
#include "system.h"

#include <cstdint>
#if LK_LINUX_THREADS
#include <pthread.h>
#include <sched.h>
#include <sys/syscall.h>
#include <time.h>
#include <unistd.h>
#endif

// A thread that can borrow a core from another thread. The thread itself calls `here`; other threads call the other functions.
class Borrower {
  public:
#if LK_LINUX_THREADS
    void here() {
        id_ = (pid_t)syscall(SYS_gettid);
        known_ = pthread_getcpuclockid(pthread_self(), &clock_) == 0;
    }

    // The processor time that the thread has used, in nanoseconds, or -1 if it is unknown. It grows only while the thread has a
    // core.
    int64_t used() const {
        timespec time;
        if (!known_ || clock_gettime(clock_, &time)) return -1;
        return time.tv_sec * INT64_C(1000000000) + time.tv_nsec;
    }

    // Moves the thread to the core of the caller, which should then sleep at once. Returns whether the thread was moved.
    bool borrow() {
        int core = sched_getcpu();
        if (core < 0 || core >= CPU_SETSIZE || sched_getaffinity(id_, sizeof allowed_, &allowed_) || !CPU_ISSET(core, &allowed_)) return false;
        cpu_set_t only;
        CPU_ZERO(&only);
        CPU_SET(core, &only);
        return sched_setaffinity(id_, sizeof only, &only) == 0;
    }

    // Takes the caller's core back: moves the thread to another core, and then lets it use all cores that it could use before.
    void give_back() {
        cpu_set_t others = allowed_;
        int core = sched_getcpu();
        if (core >= 0 && core < CPU_SETSIZE) CPU_CLR(core, &others);
        if (CPU_COUNT(&others)) sched_setaffinity(id_, sizeof others, &others);
        sched_setaffinity(id_, sizeof allowed_, &allowed_);
    }

  private:
    pid_t id_ = 0;
    clockid_t clock_ = 0;
    bool known_ = false;
    cpu_set_t allowed_;
#else
    void here() {}
    int64_t used() const { return -1; }
    bool borrow() { return false; }
    void give_back() {}
#endif
};
