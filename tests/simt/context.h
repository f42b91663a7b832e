// A stack and the place on it where to go on; switching takes nanoseconds and no system call. The sanitizers are told.
#pragma once

#include <cstddef>

namespace aoq::simt {

inline constexpr size_t kStackBytes = 256 * 1024;  // of memory only what is touched

class Context {
 public:
  // The context of whoever creates it; it owns no stack.
  Context() = default;
  Context(const Context&) = delete;
  Context& operator=(const Context&) = delete;
  ~Context();

  // From now on the context is one that calls entry(), on a stack of its own; entry never returns.
  void start(void (*entry)());

  // To be called first in every entry; `starter` is the context that entered the first one.
  static void entered(Context& starter);

  // Goes on in `to`; returns when someone switches back here, which nobody may do once `last` was passed.
  void switch_to(Context& to, bool last = false);

  void* sanitizer_fiber = nullptr;  // ThreadSanitizer's name for this context

 private:
  void* memory_ = nullptr;  // the stack and its guard, if the context owns one
  char* stack_ = nullptr;   // lowest address
  size_t stack_bytes_ = 0;
  void* stack_pointer_ = nullptr;
  void* fake_stack_ = nullptr;  // AddressSanitizer's
};

}  // namespace aoq::simt
