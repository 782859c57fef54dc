// Compiles the kernels for NEON with the extension dotprod, which computes dot products of bytes.
#define LK_NEON 1
#define LK_DOTPROD 1
#define LK_NAMESPACE lk_neon_dotprod
#define LK_TABLE kernels_neon_dotprod
#define LK_NAME "neon_dotprod"
#define LK_TILE 6
#define LK_PANELS 1
#define LK_CHAINS 2
#include "kernels.inl"
