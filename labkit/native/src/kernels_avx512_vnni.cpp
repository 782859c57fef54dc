// The kernels compiled for avx512_vnni.
#define LK_AVX512 1
#define LK_NAMESPACE lk_avx512_vnni
#define LK_TABLE kernels_avx512_vnni
#define LK_NAME "avx512_vnni"
#define LK_TILE 12
#define LK_PANELS 2
#include "kernels.inl"
