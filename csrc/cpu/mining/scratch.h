// Large uninitialised memory, in huge pages where the system grants them: the buffers of a thousand anchors written in
// turn would otherwise miss the address cache every time.
#pragma once

#include <sys/mman.h>

#include <cstdint>
#include <cstdlib>
#include <memory>
#include <new>

namespace aoq::cpu {

struct FreeMemory {
  void operator()(void* memory) const { std::free(memory); }
};

template <class T>
using Scratch = std::unique_ptr<T[], FreeMemory>;

template <class T>
Scratch<T> make_scratch(int64_t count) {
  constexpr size_t kHugePage = size_t(1) << 21;
  const size_t bytes = (static_cast<size_t>(count) * sizeof(T) + kHugePage - 1) / kHugePage * kHugePage;
  void* memory = std::aligned_alloc(kHugePage, bytes);
  if (memory == nullptr) throw std::bad_alloc();
  madvise(memory, bytes, MADV_HUGEPAGE);  // a wish: refusal changes nothing but speed
  return Scratch<T>(static_cast<T*>(memory));
}

}  // namespace aoq::cpu
