// Calls functions of native.h for another program (machine.py), so that its tests can use the kernels of an emulated CPU.
//
// Arguments: a file and its size. The file is shared memory for everything that pointers point to, mapped at the address ARENA.
// Each request on standard input is a function's name and one 64-bit word for each argument: an integer, an address, or the bits
// of a double. The answer on standard output is one word, the result.
#include "../../../labkit/native/src/native.h"

#include <cstdio>
#include <cstdlib>
#include <cstring>
#include <fcntl.h>
#include <sys/mman.h>
#include <type_traits>
#include <unistd.h>
#include <utility>

namespace {

char *const ARENA = (char *)0x1000000000;

struct Request {
    char name[32];
    uint64_t words[24];
};

template <class T> T argument(uint64_t word) {
    if constexpr (std::is_floating_point_v<T>) {
        double number;
        std::memcpy(&number, &word, sizeof number);
        return (T)number;
    } else {
        return (T)word;
    }
}

// A string is copied to the beginning of the arena, which holds nothing else.
uint64_t answer(const char *text) { return (uint64_t)std::strcpy(ARENA, text); }
template <class T> uint64_t answer(T result) { return (uint64_t)result; }

template <class R, class... A, size_t... I>
uint64_t call_with(R (*function)(A...), const uint64_t *words, std::index_sequence<I...>) {
    (void)words;
    if constexpr (std::is_void_v<R>)
        return function(argument<A>(words[I])...), 0;
    else
        return answer(function(argument<A>(words[I])...));
}
template <class R, class... A> uint64_t call(R (*function)(A...), const uint64_t *words) {
    return call_with(function, words, std::index_sequence_for<A...>());
}

uint64_t run(const Request &request) {
#define LK_CALL(function) \
    if (!std::strcmp(request.name, #function)) return call(function, request.words)
    LK_CALL(lk_isa);
    LK_CALL(lk_use_isa);
    LK_CALL(lk_advise_large_pages);
    LK_CALL(lk_packed_bytes);
    LK_CALL(lk_scale_bytes);
    LK_CALL(lk_pack);
    LK_CALL(lk_workspace_create);
    LK_CALL(lk_workspace_free);
    LK_CALL(lk_forward);
    LK_CALL(lk_linear);
    LK_CALL(lk_layer_norm);
    LK_CALL(lk_residual_layer_norm);
    LK_CALL(lk_rotary_cache_write);
    LK_CALL(lk_attention);
    LK_CALL(lk_sample);
    LK_CALL(lk_group_bytes);
    LK_CALL(lk_group_abort);
    LK_CALL(lk_group_all_reduce);
    LK_CALL(lk_group_broadcast);
    LK_CALL(lk_group_gather);
    std::fprintf(stderr, "calls.cpp does not know %s\n", request.name);
    std::exit(3);
}

} // namespace

int main(int, char **arguments) {
    int file = open(arguments[1], O_RDWR);
    void *at = mmap(ARENA, std::strtoull(arguments[2], nullptr, 10), PROT_READ | PROT_WRITE, MAP_SHARED | MAP_FIXED, file, 0);
    if (at != ARENA) return std::perror("the shared memory cannot be mapped"), 2;
    for (Request request; std::fread(&request, sizeof request, 1, stdin) == 1;) {
        uint64_t result = run(request);
        if (std::fwrite(&result, sizeof result, 1, stdout) != 1 || std::fflush(stdout)) return 1;
    }
    return 0;
}
