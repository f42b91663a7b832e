// Scores are defined for subnormal numbers too, whatever torch.set_flush_denormal has set on some threads.
#pragma once

#if defined(__SSE2__)
#include <xmmintrin.h>
#endif

namespace aoq::cpu {

// While it lives, this thread neither flushes subnormal results to zero nor reads subnormal operands as zero.
class ExactSubnormals {
 public:
#if defined(__SSE2__)
  ExactSubnormals() : before_(_mm_getcsr()) { _mm_setcsr(before_ & ~(kFlushResults | kFlushOperands)); }
  ~ExactSubnormals() { _mm_setcsr(before_); }
  ExactSubnormals(const ExactSubnormals&) = delete;
  ExactSubnormals& operator=(const ExactSubnormals&) = delete;

 private:
  static constexpr unsigned kFlushResults = 1u << 15, kFlushOperands = 1u << 6;
  unsigned before_;
#else
  ExactSubnormals() {}  // torch sets no such mode on other processors
#endif
};

}  // namespace aoq::cpu
