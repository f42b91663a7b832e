// How the last of some blocks learns that it is the last.
#pragma once

#include "cuda/device/primitives.cuh"

namespace aoq::device {

// Whether this block is the last of so many to come here: then it sees what all the others wrote before they came.
// `is_last` is shared memory.
AOQ_DEVICE bool is_last_block(uint32_t* ticket, uint32_t blocks, uint32_t& is_last) {
  sync_block();
  if (thread_index() == 0) {
    thread_fence();
    is_last = atomic_add(ticket, 1) == blocks - 1;
    thread_fence();
    if (is_last) atomic_add(ticket, 0u - blocks);  // back to 0, without a race with the others' adding
  }
  sync_block();
  return is_last;
}

}  // namespace aoq::device
