// Decides whether threads use Linux's own calls: futexes, processor clocks of threads and the choice of cores. On other
// systems, such as macOS, threads use only the C++ library. A test defines LK_WITHOUT_LINUX to compile and run this second
// variant on Linux, too.
#pragma once

#if defined(__linux__) && !defined(LK_WITHOUT_LINUX)
#define LK_LINUX_THREADS 1
#else
#define LK_LINUX_THREADS 0
#endif
