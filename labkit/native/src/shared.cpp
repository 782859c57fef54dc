// Runs collectives between processes on one host through shared memory. So small messages avoid the cost of a network.
//
// Every member has two slots in the region and uses them in turn. Epoch e is the e-th call of the group, the same call for all
// members. In epoch e, a member waits until all others have read epoch e - 2, writes its slot e % 2 and sets `posted`. Then the
// member waits for the members that it wants to read, reads their slots and sets `done`. Sums are added in the order of the
// ranks, so all members get the same bits.
#include "native.h"
#include "waiting.h"

#include <algorithm>
#include <cstring>

namespace {

struct alignas(64) Progress {
    std::atomic<uint64_t> posted, done;
    SharedSignal changed; // rings when `posted` or `done` has changed
};

struct Region {
    alignas(64) std::atomic<int32_t> aborted;
    Progress of[1]; // [ranks], then the slots [ranks][2][slot_bytes]
};

// Nanoseconds. A sleeper wakes up to check for an abort. LONGEST_SLEEP is a double, because a timeout can be infinite.
constexpr int64_t SPIN = 50000;
constexpr double LONGEST_SLEEP = 5e7;

double now() { return (double)nanoseconds() * 1e-9; }

int64_t head_bytes(int32_t ranks) { return (int64_t)sizeof(Region) + ranks * (int64_t)sizeof(Progress); }

struct Turn {
    lk_group &group;
    Region &region;
    uint64_t epoch;
    double began;

    explicit Turn(lk_group *g) : group(*g), region(*(Region *)g->region), epoch(++g->epoch), began(now()) {}

    char *slot(int32_t rank) {
        return (char *)group.region + head_bytes(group.ranks) + (2 * (int64_t)rank + (int64_t)(epoch & 1)) * group.slot_bytes;
    }

    // Waits until a member's `flag` reaches `value`. The thread first spins. Then it sleeps, because the next task can be a
    // long time away, and because the other member may need this core.
    bool wait(int32_t rank, std::atomic<uint64_t> Progress::*flag, uint64_t value) {
        Progress &other = region.of[rank];
        auto reached = [&] { return (other.*flag).load() >= value; };
        if (spin(SPIN, reached)) return true;
        for (;;) {
            uint32_t seen = other.changed.value.load();
            if (reached()) return true;
            double left = group.timeout - (now() - began);
            if (region.aborted.load(std::memory_order_relaxed) || left <= 0) {
                group.late = rank;
                return false;
            }
            other.changed.sleep(seen, (int64_t)std::min(LONGEST_SLEEP, left * 1e9 + 1));
        }
    }

    // Waits until this member's slot may be written again. Returns false if another member is late or the group was aborted.
    bool open() {
        for (int32_t r = 0; r < group.ranks; r++)
            if (r != group.rank && epoch > 2 && !wait(r, &Progress::done, epoch - 2)) return false;
        return true;
    }
    bool posted(int32_t rank) { return wait(rank, &Progress::posted, epoch); }
    void post() { set(&Progress::posted); }
    void finish() { set(&Progress::done); }
    void set(std::atomic<uint64_t> Progress::*flag) {
        Progress &self = region.of[group.rank];
        (self.*flag).store(epoch, std::memory_order_release);
        self.changed.ring();
    }
};

int32_t failed(const lk_group *group) { return ((Region *)group->region)->aborted.load() ? 2 : 1; }

} // namespace

extern "C" {

int64_t lk_group_bytes(int32_t ranks, int64_t slot_bytes) { return head_bytes(ranks) + 2 * ranks * slot_bytes; }

void lk_group_abort(lk_group *group) { ((Region *)group->region)->aborted.store(1); }

int32_t lk_group_all_reduce(void *argument, float *data, int64_t count) {
    lk_group *group = (lk_group *)argument;
    double began = now();
    int64_t most = group->slot_bytes / (int64_t)sizeof(float);
    for (int64_t at = 0; at < count; at += most) {
        int64_t part = std::min(most, count - at);
        Turn turn(group);
        if (!turn.open()) return failed(group);
        std::memcpy(turn.slot(group->rank), data + at, part * sizeof(float));
        turn.post();
        for (int32_t r = 0; r < group->ranks; r++)
            if (r != group->rank && !turn.posted(r)) return failed(group);
        float *sum = data + at;
        for (int32_t r = 0; r < group->ranks; r++) {
            const float *theirs = (const float *)turn.slot(r);
            if (r == 0)
                std::memcpy(sum, theirs, part * sizeof(float));
            else
                for (int64_t i = 0; i < part; i++) sum[i] += theirs[i];
        }
        turn.finish();
    }
    group->calls++;
    group->bytes += count * (int64_t)sizeof(float);
    group->seconds += now() - began;
    return 0;
}

int32_t lk_group_broadcast(lk_group *group, int32_t root, void *data, int64_t bytes) {
    double began = now();
    for (int64_t at = 0; at < bytes; at += group->slot_bytes) {
        int64_t part = std::min(group->slot_bytes, bytes - at);
        Turn turn(group);
        if (group->rank == root) {
            if (!turn.open()) return --group->epoch, failed(group);
            std::memcpy(turn.slot(root), (char *)data + at, part);
            turn.post();
        } else {
            if (!turn.posted(root)) return --group->epoch, failed(group);
            std::memcpy((char *)data + at, turn.slot(root), part);
            turn.post();
        }
        turn.finish();
    }
    group->calls++;
    group->bytes += bytes;
    group->seconds += now() - began;
    return 0;
}

int32_t lk_group_gather(lk_group *group, int32_t root, const void *mine, int64_t bytes, void *all) {
    double began = now();
    for (int64_t at = 0; at < bytes; at += group->slot_bytes) {
        int64_t part = std::min(group->slot_bytes, bytes - at);
        Turn turn(group);
        if (!turn.open()) return failed(group);
        std::memcpy(turn.slot(group->rank), (const char *)mine + at, part);
        turn.post();
        if (group->rank == root)
            for (int32_t r = 0; r < group->ranks; r++) {
                if (r != root && !turn.posted(r)) return failed(group);
                std::memcpy((char *)all + r * bytes + at, turn.slot(r), part);
            }
        turn.finish();
    }
    group->calls++;
    group->bytes += bytes;
    group->seconds += now() - began;
    return 0;
}
}
