// The scheduler. Warps have random priorities, the highest that can run does, and now and then it falls behind all
// others (probabilistic concurrency testing); within a warp the lanes come in random order.
#include "simt/runtime.h"

#include <cxxabi.h>

#include <algorithm>
#include <cstdarg>
#include <cstdio>
#include <cstring>
#include <numeric>

#include "simt/state.h"

namespace aoq::simt {

Launch* active = nullptr;

static Report report_of_last;

constexpr uint64_t kTracePrime = 0x100000001b3;
constexpr int kCallsPerDemotion = 32;
constexpr uint64_t kPriorities = 1'000'000;

int thread_index() { return active->current->thread; }
unsigned block_index() { return static_cast<unsigned>(active->current->block->index); }
unsigned block_count() { return static_cast<unsigned>(active->block_count); }
char* shared_memory() { return active->current->block->shared.data.get(); }

static std::string place(const Site& site) {
  return std::string(site.file_name()) + ":" + std::to_string(site.line()) + " (" + site.function_name() + ")";
}

void fail(const Site& site, const char* format, ...) {
  char text[512];
  va_list arguments;
  va_start(arguments, format);
  std::vsnprintf(text, sizeof text, format, arguments);
  va_end(arguments);
  const Fiber& fiber = *active->current;
  active->error = active->kernel + ", block " + std::to_string(fiber.block->index) + ", thread " +
                  std::to_string(fiber.thread) + ", " + place(site) + ": " + text;
  active->current->context.switch_to(active->host, /*last=*/true);
  __builtin_unreachable();
}

static void find_first_warp() {
  Block* block = nullptr;
  int warp = 0;
  for (const auto& candidate : active->blocks) {
    for (int i = 0; i < static_cast<int>(candidate->warps.size()); ++i) {
      if (candidate->warps[i].ready == 0) continue;
      if (block != nullptr && candidate->warps[i].priority <= block->warps[warp].priority) continue;
      block = candidate.get();
      warp = i;
    }
  }
  active->first = block;
  active->first_warp = warp;
}

// The next thread to run, null where all wait.
static Fiber* pick() {
  if (active->first == nullptr || active->first->warps[active->first_warp].ready == 0) find_first_warp();
  Block* const block = active->first;
  if (block == nullptr) return nullptr;
  const int warp = active->first_warp;
  const int turn = static_cast<int>(active->random.next() % kWarpSize);
  const int lane = (turn + std::countr_zero(std::rotr(block->warps[warp].ready, turn))) % kWarpSize;
  return &block->fiber(warp, lane);
}

// The context of the next thread; the host's where all wait or the launch takes too long.
static Context& next_context() {
  Report& report = active->report;
  Fiber* next = report.switches < active->schedule.most_switches ? pick() : nullptr;
  if (next == nullptr) return active->host;
  ++report.switches;
  report.trace = (report.trace ^ static_cast<uint64_t>(next->block->index * 1024 + next->thread + 1)) * kTracePrime;
  active->current = next;
  return next->context;
}

void preempt() {
  Fiber& self = *active->current;
  if (active->random.one_in(kCallsPerDemotion)) {
    self.block->warps[self.warp()].priority = --active->lowest_priority;
    active->first = nullptr;
  }
  Context& next = next_context();
  if (&next != &self.context) self.context.switch_to(next);
}

void check_shared(const void* address, size_t bytes, const char* what, const Site& site) {
  constexpr uintptr_t kAlignment = 16;
  const Buffer& shared = active->current->block->shared;
  const char* begin = shared.data.get();
  const auto* at = static_cast<const char*>(address);
  if (at < begin || at + bytes > begin + shared.bytes) {
    fail(site, "%s byte %td of %zu bytes of shared memory", what, at - begin, shared.bytes);
  }
  if (reinterpret_cast<uintptr_t>(address) % kAlignment != 0) {
    fail(site, "%s byte %td of shared memory, which is not 16-byte aligned", what, at - begin);
  }
}

static void check_nobody_waits_for(const Fiber& exiting) {
  const Block& block = *exiting.block;
  if (block.at_barrier == 0 && block.warps[exiting.warp()].waiting == 0) return;
  for (const Fiber& other : block.fibers) {
    const bool same_warp = other.warp() == exiting.warp();
    if (other.state == State::kAtBarrier) {
      fail(other.site, "exited, but thread %d waits for it at this barrier", other.thread);
    }
    if (other.state == State::kAtCollective && same_warp && (other.mask >> exiting.lane() & 1u)) {
      fail(other.site, "exited, but thread %d waits for it here, with mask %08x", other.thread, other.mask);
    }
  }
}

static void entry() {
  Context::entered(active->host);
  acquire(&active->start);
  active->run(active->params);
  Fiber& self = *active->current;
  Block& block = *self.block;
  check_nobody_waits_for(self);
  release(&active->end);
  self.state = State::kExited;
  block.warps[self.warp()].ready &= ~(1u << self.lane());
  block.warps[self.warp()].exited |= 1u << self.lane();
  if (++block.exited == static_cast<int>(block.fibers.size())) active->finished = &block;
  self.context.switch_to(active->finished == nullptr ? next_context() : active->host, /*last=*/true);
  __builtin_unreachable();
}

static void start_block(Block& block, int64_t index) {
  block.index = index;
  block.at_barrier = block.exited = 0;
  active->first = nullptr;
  std::memset(block.shared.data.get(), 0xff, block.shared.bytes);
  for (Warp& warp : block.warps) {
    warp.ready = ~0u;
    warp.waiting = warp.exited = 0;
    warp.priority = static_cast<int64_t>(active->random.next() % kPriorities);
  }
  for (int i = 0; i < static_cast<int>(block.fibers.size()); ++i) {
    Fiber& fiber = block.fibers[i];
    fiber.block = &block;
    fiber.thread = i;
    fiber.state = State::kReady;
    fiber.copies.clear();
    fiber.group = 0;
    fiber.clocks.reset();
    fiber.context.start(&entry);
  }
}

// One thread of every place where threads wait.
static std::string waiting_threads() {
  std::string text;
  std::vector<const Fiber*> named;
  for (const auto& block : active->blocks) {
    for (const Fiber& fiber : block->fibers) {
      if (fiber.state != State::kAtBarrier && fiber.state != State::kAtCollective) continue;
      const auto same = [&](const Fiber* other) {
        return other->block == fiber.block && other->state == fiber.state && other->site.line() == fiber.site.line();
      };
      if (std::any_of(named.begin(), named.end(), same)) continue;
      named.push_back(&fiber);
      text += "\n  block " + std::to_string(block->index) + ", thread " + std::to_string(fiber.thread) + " waits at " +
              (fiber.state == State::kAtBarrier ? "the barrier " : "the warp collective ") + place(fiber.site);
    }
  }
  return text;
}

static std::string why_stopped() {
  const uint64_t most = active->schedule.most_switches;
  const bool stuck = active->report.switches >= most;
  return active->kernel + (stuck ? ": stuck after " + std::to_string(most) + " switches" : ": deadlock") +
         waiting_threads();
}

[[noreturn]] static void stop(const std::string& why) {
  // The memory of the threads, which will not go on, is the host's again.
  for (const auto& block : active->blocks) {
    for (const Fiber& fiber : block->fibers) as(fiber.context.sanitizer_fiber, [] { release(&active->end); });
  }
  acquire(&active->end);
  throw Error(why);
}

static void run_blocks(const std::vector<int64_t>& order) {
  size_t started = 0, finished = 0;
  for (const auto& block : active->blocks) start_block(*block, order[started++]);
  while (finished < order.size()) {
    active->finished = nullptr;
    release(&active->start);
    Context& next = next_context();
    if (&next == &active->host) stop(why_stopped());
    active->host.switch_to(next);
    if (!active->error.empty()) stop(active->error);
    if (active->finished == nullptr) continue;
    acquire(&active->end);
    ++finished;
    if (started < order.size()) start_block(*active->finished, order[started++]);
  }
}

static std::string readable(const char* type_name) {
  int status = 0;
  const std::unique_ptr<char, decltype(&std::free)> name(abi::__cxa_demangle(type_name, nullptr, nullptr, &status),
                                                         &std::free);
  return status == 0 ? name.get() : type_name;
}

void launch(const char* kernel, int64_t blocks, int threads, size_t shared_bytes, const Schedule& schedule,
            void (*run)(const void*), const void* params) {
  constexpr int64_t kMostBlocks = 0x7fffffff;
  constexpr size_t kMostShared = 227 * 1024;  // of a block on sm_90
  if (blocks == 0) return;
  if (blocks < 0 || blocks > kMostBlocks || shared_bytes > kMostShared) {
    throw Error(readable(kernel) + ": a grid of " + std::to_string(blocks) + " blocks with " +
                std::to_string(shared_bytes) + " bytes of shared memory");
  }
  Launch launch{readable(kernel), blocks, schedule, run, params, Random(schedule.seed)};
  launch.host.sanitizer_fiber = current_fiber();
  std::vector<int64_t> order(blocks);
  std::iota(order.begin(), order.end(), int64_t{0});
  for (size_t i = order.size(); i > 1; --i) std::swap(order[i - 1], order[launch.random.next() % i]);
  const int64_t resident = std::min<int64_t>(std::max(schedule.resident_blocks, 1), blocks);
  for (int64_t i = 0; i < resident; ++i) launch.blocks.push_back(std::make_unique<Block>(threads, shared_bytes));
  active = &launch;
  const std::shared_ptr<void> leave(nullptr, [](void*) {
    report_of_last = active->report;
    active = nullptr;
  });
  run_blocks(order);
}

Report last_report() { return report_of_last; }

}  // namespace aoq::simt
