// The kernels compiled for avx2.
#define LK_AVX2 1
#define LK_NAMESPACE lk_avx2
#define LK_TABLE kernels_avx2
#define LK_NAME "avx2"
#define LK_TILE 6
#define LK_PANELS 1
#include "kernels.inl"
