// Compiles the kernels for NEON, which every 64-bit ARM CPU has.
#define LK_NEON 1
#define LK_NAMESPACE lk_neon
#define LK_TABLE kernels_neon
#define LK_NAME "neon"
#define LK_TILE 6
#define LK_PANELS 1
#define LK_CHAINS 2
#include "kernels.inl"
