// Where the threads of a block or of a warp wait for each other.
#pragma once

#include <array>

#include "simt/runtime.h"

namespace aoq::simt {

void sync_block(const Site& site);

// Waits until every lane of the mask has come to the same call with the same mask. The last to come computes the
// results of all, at once: no lane waits for a whole warp to step together. `lanes[i]` is the argument of lane i, null
// outside the mask.
using Lanes = std::array<void*, 32>;
using Complete = void (*)(const Lanes& lanes);
void collective(unsigned mask, const Site& site, void* argument, Complete complete, bool orders_memory = false);

uint64_t shuffle(uint64_t value, int source, unsigned mask, const Site& site);
unsigned ballot(bool predicate, unsigned mask, const Site& site);

}  // namespace aoq::simt
