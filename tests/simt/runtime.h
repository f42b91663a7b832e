// A GPU's threads on one CPU thread: every thread of a kernel is a fiber, and a scheduler with a seed decides which of
// them runs up to its next synchronising call. What CUDA leaves undefined becomes an Error that names the kernel, the
// block, the thread and the line. tests/simt/README.md says what is modelled and what is not.
#pragma once

#include <cstddef>
#include <cstdint>
#include <source_location>
#include <stdexcept>

namespace aoq::simt {

using Site = std::source_location;

struct Error : std::runtime_error {
  using std::runtime_error::runtime_error;
};

// How the threads of one launch are interleaved; equal schedules give equal interleavings.
struct Schedule {
  uint64_t seed = 0;
  int resident_blocks = 3;               // blocks that run at the same time
  uint64_t most_switches = 100'000'000;  // a launch that takes more is stuck
  bool cuts_off = false;                 // matrix instructions cut their sums off, as tensor cores do
};

struct Report {
  uint64_t switches = 0;
  uint64_t trace = 0;  // a hash of which thread ran after which
};

// Runs `blocks` blocks of `threads` threads of run(params); throws Error.
void launch(const char* kernel, int64_t blocks, int threads, size_t shared_bytes, const Schedule& schedule,
            void (*run)(const void*), const void* params);
Report last_report();

// What follows is called by the threads of a kernel only.

int thread_index();
unsigned block_index();
unsigned block_count();
char* shared_memory();

// Stops the launch with an Error.
[[noreturn]] void fail(const Site& site, const char* format, ...) __attribute__((format(printf, 2, 3)));

// Where another thread may run first.
void preempt();

}  // namespace aoq::simt
