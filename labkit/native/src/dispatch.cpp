#include "dispatch.h"

#include <atomic>
#include <cstring>
#if defined(__aarch64__) && defined(__linux__)
#include <sys/auxv.h>
#elif defined(__aarch64__) && defined(__APPLE__)
#include <sys/sysctl.h>
#endif

namespace {

#if defined(__aarch64__)
// Whether the CPU has an extension. On Linux, `bit` is its bit in AT_HWCAP (word 0) or AT_HWCAP2 (word 1); it is given as a
// number, because old headers lack its name. On macOS, the extension is looked up by `name`.
bool has(int word, int bit, const char *name) {
#if defined(__linux__)
    (void)name;
    return getauxval(word ? AT_HWCAP2 : AT_HWCAP) >> bit & 1;
#elif defined(__APPLE__)
    int value = 0;
    size_t size = sizeof value;
    return (void)word, (void)bit, sysctlbyname(name, &value, &size, nullptr, 0) == 0 && value;
#else
    return (void)word, (void)bit, (void)name, false;
#endif
}
#endif

bool runs(const Kernels *table) {
#if defined(__x86_64__)
    __builtin_cpu_init();
    bool avx2 = __builtin_cpu_supports("avx2") && __builtin_cpu_supports("fma") && __builtin_cpu_supports("f16c");
    bool vnni = avx2 && __builtin_cpu_supports("avx512f") && __builtin_cpu_supports("avx512bw") &&
                __builtin_cpu_supports("avx512vl") && __builtin_cpu_supports("avx512dq") && __builtin_cpu_supports("avx512vnni");
    if (table == &kernels_avx2) return avx2;
    if (table == &kernels_avx512_vnni) return vnni;
    if (table == &kernels_avx512_bf16) return vnni && __builtin_cpu_supports("avx512bf16");
#elif defined(__aarch64__)
    bool dotprod = has(0, 20, "hw.optional.arm.FEAT_DotProd");
    if (table == &kernels_neon) return true;
    if (table == &kernels_neon_dotprod) return dotprod;
    if (table == &kernels_neon_bf16)
        return dotprod && has(1, 13, "hw.optional.arm.FEAT_I8MM") && has(1, 14, "hw.optional.arm.FEAT_BF16");
#endif
    return table == &kernels_portable;
}

const Kernels *const tables[] = {
#if defined(__x86_64__)
    &kernels_avx512_bf16, &kernels_avx512_vnni, &kernels_avx2,
#elif defined(__aarch64__)
    &kernels_neon_bf16, &kernels_neon_dotprod, &kernels_neon,
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

const char *lk_interface(void) { return LK_INTERFACE; }

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
