// What the runtime knows of the launch in progress. There is one at a time, on one CPU thread.
#pragma once

#include <bit>
#include <memory>
#include <string>
#include <vector>

#include "simt/binding.h"
#include "simt/context.h"
#include "simt/runtime.h"
#include "simt/sanitizers.h"

namespace aoq::simt {

inline constexpr int kWarpSize = 32;

class Random {
 public:
  explicit Random(uint64_t seed) : state_(seed) {}

  uint64_t next() {  // splitmix64
    uint64_t z = state_ += 0x9e3779b97f4a7c15;
    z = (z ^ (z >> 30)) * 0xbf58476d1ce4e5b9;
    z = (z ^ (z >> 27)) * 0x94d049bb133111eb;
    return z ^ (z >> 31);
  }
  bool one_in(uint64_t n) { return next() % n == 0; }

 private:
  uint64_t state_;
};

enum class State : uint8_t { kReady, kAtBarrier, kAtCollective, kExited };

struct AsyncCopy {
  char* shared;
  const char* global;
  int valid_bytes;
  int64_t group;
};

struct Block;

// A CUDA thread.
struct Fiber {
  Context context;
  FenceClocks clocks;
  Block* block = nullptr;
  int thread = 0;
  State state = State::kReady;

  Site site;  // where it waits, and for whom
  unsigned mask = 0;
  void* argument = nullptr;

  std::vector<AsyncCopy> copies;  // issued and not yet waited for, oldest first
  int64_t group = 0;              // the group that copies join now

  int lane() const { return thread % kWarpSize; }
  int warp() const { return thread / kWarpSize; }
};

struct Warp {
  unsigned ready = 0;    // lanes
  unsigned waiting = 0;  // lanes at a collective
  unsigned exited = 0;   // lanes
  int64_t priority = 0;
  int orderings = 0;  // sync_warps completed
  char ordering[2] = {};
};

// A place for one resident block after the other.
struct Block {
  Block(int threads, size_t shared_bytes) : shared(shared_bytes), fibers(threads), warps(threads / kWarpSize) {}

  Buffer shared;
  std::vector<Fiber> fibers;
  std::vector<Warp> warps;
  int64_t index = 0;
  int at_barrier = 0;
  Site barrier_site;  // of those who wait at it
  int exited = 0;
  int barriers = 0;  // completed
  char barrier[2] = {};

  Fiber& fiber(int warp, int lane) { return fibers[warp * kWarpSize + lane]; }
};

struct Launch {
  std::string kernel;
  int64_t block_count;
  Schedule schedule;
  void (*run)(const void*);
  const void* params;

  Random random;
  std::vector<std::unique_ptr<Block>> blocks{};  // resident
  Context host{};
  Fiber* current = nullptr;
  Block* finished = nullptr;  // a block whose last thread has just exited
  Block* first = nullptr;     // that of the warp whose turn it is; null where others may have come before it
  int first_warp = 0;
  std::string error{};
  int64_t lowest_priority = 0;
  Report report{};
  char start = 0, end = 0;  // order the host's accesses with the kernel's
};

extern Launch* active;

// Fails unless [address, address + bytes) is a 16-byte aligned part of the block's shared memory.
void check_shared(const void* address, size_t bytes, const char* what, const Site& site);

}  // namespace aoq::simt
