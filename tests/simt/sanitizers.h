// What AddressSanitizer and ThreadSanitizer have to be told of fibers and of memory order; nothing in a plain build.
// ThreadSanitizer sees the kernels only: this runtime is compiled without it, with AOQ_SIMT_TSAN.
#pragma once

#include <cstddef>

#if defined(AOQ_SIMT_TSAN)
#include <sanitizer/tsan_interface.h>
extern "C" {
void __tsan_read_range(void* address, unsigned long bytes);
void __tsan_write_range(void* address, unsigned long bytes);
}
#endif
#if defined(__SANITIZE_ADDRESS__)
#include <sanitizer/asan_interface.h>
#include <sanitizer/common_interface_defs.h>
#endif

namespace aoq::simt {

#if defined(AOQ_SIMT_TSAN)

// What the running fiber did so far happens before whatever follows an acquire of the same object.
inline void release(void* object) { __tsan_release(object); }
inline void acquire(void* object) { __tsan_acquire(object); }
inline void note_read(const void* address, size_t bytes) { __tsan_read_range(const_cast<void*>(address), bytes); }
inline void note_write(void* address, size_t bytes) { __tsan_write_range(address, bytes); }
inline void* create_fiber() { return __tsan_create_fiber(0); }
inline void destroy_fiber(void* fiber) { __tsan_destroy_fiber(fiber); }
inline void* current_fiber() { return __tsan_get_current_fiber(); }
inline void switch_fiber(void* fiber) { __tsan_switch_to_fiber(fiber, __tsan_switch_to_fiber_no_sync); }

#else

inline void release(void*) {}
inline void acquire(void*) {}
inline void note_read(const void*, size_t) {}
inline void note_write(void*, size_t) {}
inline void* create_fiber() { return nullptr; }
inline void destroy_fiber(void*) {}
inline void* current_fiber() { return nullptr; }
inline void switch_fiber(void*) {}

#endif

// As if another fiber did it.
template <class Action>
void as(void* fiber, Action action) {
  void* self = current_fiber();
  switch_fiber(fiber);
  action();
  switch_fiber(self);
}

// What a thread's fences publish and what they let it see. A fence orders memory only together with an atomic that
// follows it, here, and one that precedes it, elsewhere; so each thread has two more clocks: `published_` stands where
// the last fence stood, `observed_` holds what the atomics since then have read. Clocks are ThreadSanitizer fibers.
class FenceClocks {
 public:
  FenceClocks() = default;
  FenceClocks(const FenceClocks&) = delete;
  FenceClocks& operator=(const FenceClocks&) = delete;
  ~FenceClocks() { reset(); }

#if defined(AOQ_SIMT_TSAN)

  void fence() {
    if (observed_ != nullptr) as(observed_, [&] { release(&link_[0]); });
    acquire(&link_[0]);
    release(&link_[1]);
    if (published_ == nullptr) published_ = create_fiber();
    as(published_, [&] { acquire(&link_[1]); });
  }

  void atomic(void* address, bool writes) {
    if (published_ != nullptr && writes) as(published_, [&] { release(address); });
    if (observed_ == nullptr) observed_ = create_fiber();
    as(observed_, [&] { acquire(address); });
  }

  void reset() {
    if (published_ != nullptr) destroy_fiber(published_);
    if (observed_ != nullptr) destroy_fiber(observed_);
    published_ = observed_ = nullptr;
  }

 private:
  void* published_ = nullptr;
  void* observed_ = nullptr;
  char link_[2] = {};

#else

  void fence() {}
  void atomic(void*, bool) {}
  void reset() {}

#endif
};

}  // namespace aoq::simt
