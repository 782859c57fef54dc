// Defines memory that calls reuse: a single block, which is divided into aligned pieces.
#pragma once
#include "native.h"

#include <cstddef>
#include <cstdlib>
#include <new>

class Workspace {
  public:
    ~Workspace() { std::free(block_); }

    // Begin a call that will take `bytes` in total.
    void begin(size_t bytes) {
        if (bytes > size_) {
            std::free(block_);
            size_ = 0;
            bytes = (bytes + 4095) / 4096 * 4096;
            block_ = std::aligned_alloc(4096, bytes);
            if (!block_) throw std::bad_alloc();
            size_ = bytes;
            lk_advise_large_pages(block_, (int64_t)bytes);
        }
        used_ = 0;
    }

    template <class T> T *take(int64_t count) {
        T *piece = (T *)((char *)block_ + used_);
        used_ += bytes_of<T>(count);
        return piece;
    }

    template <class T> static size_t bytes_of(int64_t count) { return (count * sizeof(T) + 127) / 64 * 64; }

  private:
    void *block_ = nullptr;
    size_t size_ = 0, used_ = 0;
};
