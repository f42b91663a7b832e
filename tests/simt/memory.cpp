#include "simt/memory.h"

#include <cstring>

#include "simt/state.h"

namespace aoq::simt {

constexpr int kCopyBytes = 16;

void thread_fence() {
  preempt();
  active->current->clocks.fence();
}

void atomic_access(const void* address, bool writes) {
  preempt();
  active->current->clocks.atomic(const_cast<void*>(address), writes);
}

void copy_async(void* shared, const void* global, int valid_bytes, const Site& site) {
  Fiber& self = *active->current;
  auto* to = static_cast<char*>(shared);
  const auto* from = static_cast<const char*>(global);
  check_shared(to, kCopyBytes, "asynchronous copy to", site);
  if (reinterpret_cast<uintptr_t>(from) % kCopyBytes != 0) {
    fail(site, "asynchronous copy from %p, which is not %d-byte aligned", global, kCopyBytes);
  }
  if (valid_bytes < 0 || valid_bytes > kCopyBytes) fail(site, "asynchronous copy of %d valid bytes", valid_bytes);
  for (int i = 0; i < valid_bytes; ++i) static_cast<void>(static_cast<const volatile char*>(from)[i]);
  note_read(from, valid_bytes);
  note_write(to, kCopyBytes);
  std::memset(to, 0xff, kCopyBytes);
  self.copies.push_back({to, from, valid_bytes, self.group});
}

void copy_async_commit() { ++active->current->group; }

void copy_async_wait(int pending) {
  Fiber& self = *active->current;
  size_t done = 0;
  for (; done < self.copies.size() && self.copies[done].group < self.group - pending; ++done) {
    const AsyncCopy& copy = self.copies[done];
    note_read(copy.global, copy.valid_bytes);
    note_write(copy.shared, kCopyBytes);
    // Byte by byte: ThreadSanitizer would take a memcpy for an access of its own.
    for (int i = 0; i < kCopyBytes; ++i) {
      static_cast<volatile char*>(copy.shared)[i] = i < copy.valid_bytes ? copy.global[i] : char{0};
    }
  }
  self.copies.erase(self.copies.begin(), self.copies.begin() + static_cast<std::ptrdiff_t>(done));
  preempt();
}

}  // namespace aoq::simt
