// Atomics, fences and asynchronous copies.
#pragma once

#include "simt/runtime.h"

namespace aoq::simt {

void thread_fence();

// Precedes an atomic access by the caller, who does the access itself.
void atomic_access(const void* address, bool writes);

// The destination holds poison until the wait, which does the copy: the latest moment that CUDA allows.
void copy_async(void* shared, const void* global, int valid_bytes, const Site& site);
void copy_async_commit();
void copy_async_wait(int pending);

}  // namespace aoq::simt
