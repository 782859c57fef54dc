// Defines the helpers of a calling thread. They take pieces of the thread's work.
//
// A helper belongs to a stage only while it holds a piece. So a helper without a core delays nobody unless it holds a piece. If
// it does, the calling thread lends its core to the helper. A helper that is late finds that the stage is over, and touches
// nothing that belonged to the stage.
#pragma once
#include "lent_core.h"
#include "waiting.h"

#include <memory>
#include <vector>

class Crew {
  public:
    // A function that does one piece of the work. It is called as piece(argument, thread, number).
    using Piece = void (*)(void *argument, int thread, int64_t number);

    // Returns an idle crew with helpers for a call of `threads` threads, or with fewer if the system cannot start more threads.
    static Crew *take(int threads);
    void give_back();

    // Runs all pieces, each once, on at most `threads` threads.
    void share(int threads, int64_t pieces, Piece piece, void *argument);

  private:
    // A thread's part of a stage. The upper half of each 64-bit word holds the number of the stage. `done` and `holds` are used
    // only for helpers, because the calling thread counts its own pieces.
    struct alignas(128) Member {
        std::atomic<uint64_t> next{0};             // the first piece of the thread's own range that nobody has taken
        std::atomic<uint64_t> end{0};              // the end of the range
        alignas(64) std::atomic<uint64_t> done{0}; // the number of pieces that the thread has finished
        std::atomic<bool> holds{false};            // whether the thread is working on a piece
        Borrower thread;
    };

    Crew();
    void help(int number);
    int64_t take_pieces(int thread, uint32_t stage);
    bool finished(uint32_t stage, int64_t mine) const;
    void wait_for_helpers(uint32_t stage, int64_t mine);
    Member *late() const;

    std::vector<std::unique_ptr<Member>> members_; // [0] is the calling thread
    std::atomic<int> size_{1};                     // helpers may access only members with lower numbers
    // The current stage. Helpers may read these values at any time, but use them only if they can take a piece of this stage.
    std::atomic<int> threads_{1};
    std::atomic<int64_t> pieces_{0};
    std::atomic<Piece> piece_{nullptr};
    std::atomic<void *> argument_{nullptr};
    Signal stage_;                     // the number of the stage; helpers sleep on it
    std::atomic<int> asleep_{0};       // the number of sleeping helpers
    std::atomic<bool> in_call_{false}; // whether a calling thread is using this crew
    Signal bell_;                      // the calling thread sleeps on this signal
    std::atomic<bool> waits_{false};   // whether the calling thread is sleeping
};
