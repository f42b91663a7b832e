// Several arrays in one allocation: laid out once to learn the size, and again in the memory itself.
#pragma once

#include <cstddef>
#include <cstdint>

namespace aoq::cuda {

class Arena {
 public:
  explicit Arena(void* memory = nullptr) : memory_(static_cast<char*>(memory)) {}

  template <class T>
  T* take(int64_t count) {
    constexpr size_t kAlignment = 256;
    char* const array = memory_ + bytes_;
    bytes_ += (size_t(count) * sizeof(T) + kAlignment - 1) / kAlignment * kAlignment;
    return memory_ ? reinterpret_cast<T*>(array) : nullptr;
  }

  size_t bytes() const { return bytes_; }

 private:
  char* memory_;
  size_t bytes_ = 0;
};

}  // namespace aoq::cuda
