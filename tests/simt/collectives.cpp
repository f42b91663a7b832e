// Barriers and warp collectives: threads that wait for each other.
#include "simt/collectives.h"

#include <cstring>

#include "simt/state.h"

namespace aoq::simt {

static bool same(const Site& a, const Site& b) {
  return a.line() == b.line() && a.column() == b.column() &&
         (a.file_name() == b.file_name() || std::strcmp(a.file_name(), b.file_name()) == 0);
}

void sync_block(const Site& site) {
  Fiber& self = *active->current;
  Block& block = *self.block;
  if (block.exited > 0) fail(site, "barrier that %d threads cannot reach: they have exited", block.exited);
  if (block.at_barrier == 0) block.barrier_site = site;
  if (!same(block.barrier_site, site)) {
    fail(site, "divergent barrier: %d threads wait at the one of line %u", block.at_barrier,
         static_cast<unsigned>(block.barrier_site.line()));
  }
  char* ordering = &block.barrier[block.barriers % 2];
  release(ordering);
  self.site = site;
  self.state = State::kAtBarrier;
  block.warps[self.warp()].ready &= ~(1u << self.lane());
  if (++block.at_barrier == static_cast<int>(block.fibers.size())) {
    block.at_barrier = 0;
    ++block.barriers;
    for (Fiber& fiber : block.fibers) fiber.state = State::kReady;
    for (Warp& warp : block.warps) warp.ready = ~0u;
    active->first = nullptr;
  }
  preempt();
  acquire(ordering);
}

// Whether the lanes of the mask all wait at this call of `self`.
static bool is_complete(Fiber& self, unsigned waiting) {
  if ((waiting & self.mask) != self.mask) return false;
  for (unsigned rest = self.mask; rest != 0; rest &= rest - 1) {
    const Fiber& other = self.block->fiber(self.warp(), std::countr_zero(rest));
    if (other.mask != self.mask || !same(other.site, self.site)) return false;
  }
  return true;
}

void collective(unsigned mask, const Site& site, void* argument, Complete complete, bool orders_memory) {
  Fiber& self = *active->current;
  Block& block = *self.block;
  Warp& warp = block.warps[self.warp()];
  if ((mask >> self.lane() & 1u) == 0) fail(site, "lane %d calls with mask %08x, which lacks it", self.lane(), mask);
  if (const unsigned gone = mask & warp.exited) {
    fail(site, "mask %08x holds lane %d, which has exited", mask, std::countr_zero(gone));
  }
  char* ordering = &warp.ordering[warp.orderings % 2];
  if (orders_memory) release(ordering);
  self.site = site;
  self.mask = mask;
  self.argument = argument;
  self.state = State::kAtCollective;
  warp.ready &= ~(1u << self.lane());
  warp.waiting |= 1u << self.lane();
  if (is_complete(self, warp.waiting)) {
    Lanes lanes{};
    for (unsigned rest = mask; rest != 0; rest &= rest - 1) {
      const int lane = std::countr_zero(rest);
      Fiber& fiber = block.fiber(self.warp(), lane);
      lanes[lane] = fiber.argument;
      fiber.state = State::kReady;
    }
    if (complete != nullptr) complete(lanes);
    warp.ready |= mask;
    warp.waiting &= ~mask;
    if (orders_memory) ++warp.orderings;
  }
  preempt();
  if (orders_memory) acquire(ordering);
}

// A lane's part in a shuffle or a ballot: what it gives, whom it asks, what it gets.
struct Exchange {
  uint64_t value;
  int source;  // lane
  uint64_t result;
};

uint64_t shuffle(uint64_t value, int source, unsigned mask, const Site& site) {
  if ((mask >> source & 1u) == 0) fail(site, "shuffle from lane %d, which mask %08x lacks", source, mask);
  Exchange exchange{value, source, 0};
  collective(mask, site, &exchange, [](const Lanes& lanes) {
    for (void* lane : lanes) {
      if (lane == nullptr) continue;
      auto& mine = *static_cast<Exchange*>(lane);
      mine.result = static_cast<Exchange*>(lanes[mine.source])->value;
    }
  });
  return exchange.result;
}

unsigned ballot(bool predicate, unsigned mask, const Site& site) {
  Exchange exchange{predicate, 0, 0};
  collective(mask, site, &exchange, [](const Lanes& lanes) {
    uint64_t votes = 0;
    for (int i = 0; i < kWarpSize; ++i) {
      if (lanes[i] != nullptr) votes |= static_cast<Exchange*>(lanes[i])->value << i;
    }
    for (void* lane : lanes) {
      if (lane != nullptr) static_cast<Exchange*>(lane)->result = votes;
    }
  });
  return static_cast<unsigned>(exchange.result);
}

}  // namespace aoq::simt
