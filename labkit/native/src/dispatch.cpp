#include "dispatch.h"

#include <atomic>
#include <cstring>

namespace {

bool runs(const Kernels *table) {
#if defined(__x86_64__)
    __builtin_cpu_init();
    bool avx2 = __builtin_cpu_supports("avx2") && __builtin_cpu_supports("fma") && __builtin_cpu_supports("f16c");
    bool vnni = avx2 && __builtin_cpu_supports("avx512f") && __builtin_cpu_supports("avx512bw") &&
                __builtin_cpu_supports("avx512vl") && __builtin_cpu_supports("avx512dq") && __builtin_cpu_supports("avx512vnni");
    if (table == &kernels_avx2) return avx2;
    if (table == &kernels_avx512_vnni) return vnni;
    if (table == &kernels_avx512_bf16) return vnni && __builtin_cpu_supports("avx512bf16");
#endif
    return table == &kernels_portable;
}

const Kernels *const tables[] = {
#if defined(__x86_64__)
    &kernels_avx512_bf16, &kernels_avx512_vnni, &kernels_avx2,
#endif
    &kernels_portable};

std::atomic<const Kernels *> chosen{nullptr};

} // namespace

const Kernels *kernels() {
    const Kernels *found = chosen.load(std::memory_order_acquire);
    if (found) return found;
    for (const Kernels *table : tables)
        if (runs(table)) {
            chosen.store(table, std::memory_order_release);
            return table;
        }
    return &kernels_portable;
}

extern "C" {

const char *lk_isa(void) { return kernels()->name; }

int32_t lk_use_isa(const char *name) {
    for (const Kernels *table : tables)
        if (!std::strcmp(table->name, name) && runs(table)) {
            chosen.store(table, std::memory_order_release);
            return 0;
        }
    return -1;
}
}
