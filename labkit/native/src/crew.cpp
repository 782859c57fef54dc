#include "crew.h"

#include <cstdlib>
#include <mutex>
#include <strings.h>
#include <system_error>
#include <thread>

namespace {

// How long threads spin before they do something that costs more, in nanoseconds.
constexpr int64_t FOR_A_PIECE = 30000;     // the calling thread, before it asks whether a helper has lost its core
constexpr int64_t FOR_ITS_CLOCK = 5000;    // the calling thread, to see whether a helper's processor time grows
constexpr int64_t LONG_PIECE = 2000000;    // the calling thread, while it waits for a helper that is working
constexpr int64_t BETWEEN_STAGES = 100000; // helpers, while a call runs
constexpr int64_t BETWEEN_CALLS = 300000;  // helpers, between two calls; 0 if OMP_WAIT_POLICY is PASSIVE

constexpr int MOST_THREADS = 1024;

std::mutex crews_lock;
// The crews are never freed, because helpers may still be sleeping in their crew when the process ends.
std::vector<Crew *> &idle_crews() {
    static auto *crews = new std::vector<Crew *>();
    return *crews;
}

// Whether helpers must sleep at once between two calls, instead of keeping a core for a while.
bool is_passive() {
    const char *policy = std::getenv("OMP_WAIT_POLICY");
    return policy && !strcasecmp(policy, "passive");
}

uint64_t word(uint32_t stage, int64_t number) { return (uint64_t)stage << 32 | (uint64_t)number; }

} // namespace

Crew::Crew() {
    members_.reserve(MOST_THREADS); // so that the vector never moves, because helpers read it while it grows
    members_.push_back(std::make_unique<Member>());
}

Crew *Crew::take(int threads) {
    Crew *crew = nullptr;
    {
        std::lock_guard<std::mutex> lock(crews_lock);
        if (!idle_crews().empty()) {
            crew = idle_crews().back();
            idle_crews().pop_back();
        }
    }
    if (!crew) crew = new Crew();
    while (crew->size_ < threads && crew->size_ < MOST_THREADS) {
        int number = crew->size_;
        if ((int)crew->members_.size() == number) crew->members_.push_back(std::make_unique<Member>());
        try {
            std::thread([crew, number] { crew->help(number); }).detach();
        } catch (const std::system_error &) {
            break; // the calling thread does the work of the helpers that are missing
        }
        crew->size_ = number + 1;
    }
    crew->in_call_.store(true, std::memory_order_relaxed);
    return crew;
}

void Crew::give_back() {
    in_call_.store(false, std::memory_order_relaxed);
    std::lock_guard<std::mutex> lock(crews_lock);
    idle_crews().push_back(this);
}

void Crew::share(int threads, int64_t pieces, Piece piece, void *argument) {
    threads = threads < size_ ? threads : size_.load();
    uint32_t stage = stage_.value.load(std::memory_order_relaxed) + 1;
    threads_.store(threads, std::memory_order_relaxed);
    pieces_.store(pieces, std::memory_order_relaxed);
    piece_.store(piece, std::memory_order_relaxed);
    argument_.store(argument, std::memory_order_relaxed);
    for (int i = 0; i < threads; i++) {
        members_[i]->end.store(word(stage, pieces * (i + 1) / threads), std::memory_order_relaxed);
        members_[i]->next.store(word(stage, pieces * i / threads), std::memory_order_release);
    }
    stage_.value.store(stage);
    if (asleep_.load()) stage_.wake();
    int64_t mine = take_pieces(0, stage);
    if (!finished(stage, mine)) wait_for_helpers(stage, mine);
}

// Takes pieces of a stage until none is left: first the thread's own range in order, which makes memory access fast, then
// pieces of other ranges. Returns how many pieces the thread took.
int64_t Crew::take_pieces(int thread, uint32_t stage) {
    int threads = threads_.load(std::memory_order_relaxed);
    int64_t taken = 0;
    Piece piece = piece_.load(std::memory_order_relaxed);
    void *argument = argument_.load(std::memory_order_relaxed);
    Member &self = *members_[thread];
    for (int i = 0; i < threads; i++) {
        int owner = (thread + i) % threads;
        std::atomic<uint64_t> &next = members_[owner]->next;
        uint64_t end = members_[owner]->end.load(std::memory_order_relaxed), at = next.load(std::memory_order_acquire);
        while (at >> 32 == stage && end >> 32 == stage && at < end) {
            if (thread) self.holds.store(true, std::memory_order_relaxed);
            if (next.compare_exchange_weak(at, at + 1, std::memory_order_acq_rel, std::memory_order_acquire)) {
                piece(argument, thread, (int64_t)(uint32_t)at);
                taken++;
                at = next.load(std::memory_order_acquire);
                if (!thread) continue;
                self.done.store(word(stage, taken));
                if (waits_.load()) {
                    bell_.value.fetch_add(1);
                    bell_.wake();
                }
            }
        }
        if (at >> 32 != stage) break;
    }
    self.holds.store(false, std::memory_order_relaxed);
    return taken;
}

bool Crew::finished(uint32_t stage, int64_t mine) const {
    int threads = threads_.load(std::memory_order_relaxed);
    for (int i = 1; i < threads; i++) {
        uint64_t done = members_[i]->done.load();
        if (done >> 32 == stage) mine += (int64_t)(uint32_t)done;
    }
    return mine == pieces_.load(std::memory_order_relaxed);
}

// Returns a helper that holds a piece and whose processor time does not grow, or null if there is none.
Crew::Member *Crew::late() const {
    int threads = threads_.load(std::memory_order_relaxed);
    for (int i = 1; i < threads; i++) {
        Member &member = *members_[i];
        if (!member.holds.load(std::memory_order_relaxed)) continue;
        int64_t before = member.thread.used();
        spin(FOR_ITS_CLOCK, [] { return false; });
        if (before >= 0 && member.thread.used() == before && member.holds.load(std::memory_order_relaxed)) return &member;
    }
    return nullptr;
}

void Crew::wait_for_helpers(uint32_t stage, int64_t mine) {
    auto ready = [&] { return finished(stage, mine); };
    for (int64_t began = nanoseconds(); !spin(FOR_A_PIECE, ready);) {
        Member *without_core = late();
        if (!without_core && nanoseconds() - began < LONG_PIECE) continue;
        bool lent = without_core && without_core->thread.borrow();
        waits_.store(true);
        for (uint32_t seen = bell_.value.load(); !ready(); seen = bell_.value.load()) {
            bell_.sleep(seen);
            if (lent) break; // another helper may have lost its core as well
        }
        waits_.store(false);
        if (lent) without_core->thread.give_back();
    }
}

void Crew::help(int number) {
    Member &self = *members_[number];
    self.thread.here();
    uint32_t seen = 0;
    const int64_t between_calls = is_passive() ? 0 : BETWEEN_CALLS;
    for (;;) {
        uint32_t stage = seen;
        auto begun = [&] { return (stage = stage_.value.load(std::memory_order_acquire)) != seen; };
        bool in_call = in_call_.load(std::memory_order_relaxed);
        if (!spin(in_call ? BETWEEN_STAGES : between_calls, begun)) {
            asleep_.fetch_add(1);
            while (stage_.value.load() == seen) stage_.sleep(seen);
            asleep_.fetch_sub(1);
            continue;
        }
        seen = stage;
        if (number < threads_.load(std::memory_order_relaxed)) take_pieces(number, stage);
    }
}
