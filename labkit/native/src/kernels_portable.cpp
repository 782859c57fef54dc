// Compiles the kernels without special instructions, for any CPU.
#define LK_NAMESPACE lk_portable
#define LK_TABLE kernels_portable
#define LK_NAME "portable"
#define LK_TILE 4
#define LK_PANELS 1
#include "kernels.inl"
