// Compiles the kernels for NEON with the extensions dotprod, i8mm and bf16.
#define LK_NEON 1
#define LK_DOTPROD 1
#define LK_MATRIX 1
#define LK_NAMESPACE lk_neon_bf16
#define LK_TABLE kernels_neon_bf16
#define LK_NAME "neon_bf16"
#define LK_TILE 6
#define LK_PANELS 1
#define LK_CHAINS 2
#include "kernels.inl"
