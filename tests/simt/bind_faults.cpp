// Kernels with one planted fault each, beside the same kernels without: tests/simt/test_runtime.py sees that every
// fault is found and that the sound ones pass.
#include "cuda/device/primitives.cuh"
#include "cuda/host/launch.h"
#include "simt/binding.h"

namespace aoq::selftest {

using namespace aoq::device;

enum class Fault { kNone, kNoBarrier, kNoFence, kEarlyFence, kSharedOverrun, kGlobalOverrun };

// total (1,): of all values (blocks · 64,), by the last block to finish.
template <Fault kFault>
struct GridSum {
  struct Params {
    const float* values;
    float* partial;    // (blocks,)
    uint32_t* ticket;  // (1,), 0
    float* total;
  };
  static constexpr int kThreads = 64;
  static constexpr int kSharedBytes = (kThreads + 1) * sizeof(float);

  AOQ_DEVICE static void run(const Params& p) {
    auto* shared = reinterpret_cast<float*>(shared_memory());
    const int thread = thread_index();
    shared[thread] = p.values[block_index() * kThreads + thread + (kFault == Fault::kGlobalOverrun ? 1 : 0)];
    if constexpr (kFault != Fault::kNoBarrier) sync_block();
    if (thread == 0) {
      float sum = 0.0f;
      for (int i = 0; i < kThreads; ++i) sum += shared[i];
      if constexpr (kFault == Fault::kEarlyFence) thread_fence();
      p.partial[block_index()] = sum;
      if constexpr (kFault != Fault::kEarlyFence && kFault != Fault::kNoFence) thread_fence();
      const bool last = atomic_add(p.ticket, 1) == block_count() - 1;
      if constexpr (kFault != Fault::kNoFence) thread_fence();
      shared[kThreads + (kFault == Fault::kSharedOverrun ? 1 : 0)] = last ? 1.0f : 0.0f;
    }
    sync_block();
    if (shared[kThreads] != 1.0f || thread != 0) return;
    float total = 0.0f;
    for (unsigned block = 0; block < block_count(); ++block) total += load_fresh(&p.partial[block]);
    *p.total = total;
  }
};

template <Fault kFault>
static void launch_grid_sum(simt::Call& call) {
  using Kernel = GridSum<kFault>;
  const int64_t blocks = call.shape("values")[0] / Kernel::kThreads;
  cuda::launch<Kernel>(blocks, Kernel::kSharedBytes, call.schedule(),
                       {call.input<float>("values"), call.output<float>("partial", {blocks}),
                        call.in_out<uint32_t>("ticket"), call.output<float>("total", {1})});
}

AOQ_SIMT_BINDING(sum) { launch_grid_sum<Fault::kNone>(call); }
AOQ_SIMT_BINDING(sum_without_barrier) { launch_grid_sum<Fault::kNoBarrier>(call); }
AOQ_SIMT_BINDING(sum_without_fence) { launch_grid_sum<Fault::kNoFence>(call); }
AOQ_SIMT_BINDING(sum_with_early_fence) { launch_grid_sum<Fault::kEarlyFence>(call); }
AOQ_SIMT_BINDING(sum_with_shared_overrun) { launch_grid_sum<Fault::kSharedOverrun>(call); }
AOQ_SIMT_BINDING(sum_with_global_overrun) { launch_grid_sum<Fault::kGlobalOverrun>(call); }

// reversed (tiles, 128) of values (tiles, 128): tile by tile through two buffers, four values a thread.
template <int kWait, bool kBarrierBefore, bool kBarrierAfter>
struct Pipeline {
  struct Params {
    const float* values;
    float* reversed;
    int tiles;
  };
  static constexpr int kThreads = 32;
  static constexpr int kTile = 4 * kThreads;
  static constexpr int kSharedBytes = 2 * kTile * sizeof(float);

  AOQ_DEVICE static void start_copy(const Params& p, int tile) {
    if (tile < p.tiles) {
      const int at = 4 * thread_index();
      copy_async_16(reinterpret_cast<float*>(shared_memory()) + tile % 2 * kTile + at, p.values + tile * kTile + at);
    }
    copy_async_commit();
  }

  AOQ_DEVICE static void run(const Params& p) {
    start_copy(p, 0);
    for (int tile = 0; tile < p.tiles; ++tile) {
      start_copy(p, tile + 1);
      copy_async_wait<kWait>();
      if constexpr (kBarrierBefore) sync_block();
      const float* buffer = reinterpret_cast<float*>(shared_memory()) + tile % 2 * kTile;
      for (int i = 0; i < 4; ++i) {
        const int at = thread_index() + i * kThreads;
        p.reversed[tile * kTile + at] = buffer[kTile - 1 - at];
      }
      if constexpr (kBarrierAfter) sync_block();
    }
  }
};

template <int kWait, bool kBarrierBefore, bool kBarrierAfter>
static void launch_pipeline(simt::Call& call) {
  using Kernel = Pipeline<kWait, kBarrierBefore, kBarrierAfter>;
  const auto tiles = static_cast<int>(call.shape("values")[0]);
  cuda::launch<Kernel>(1, Kernel::kSharedBytes, call.schedule(),
                       {call.input<float>("values"), call.output<float>("reversed", {tiles, Kernel::kTile}), tiles});
}

AOQ_SIMT_BINDING(pipeline) { launch_pipeline<1, true, true>(call); }
AOQ_SIMT_BINDING(pipeline_that_waits_for_too_little) { launch_pipeline<2, true, true>(call); }
AOQ_SIMT_BINDING(pipeline_without_barrier_before) { launch_pipeline<1, false, true>(call); }
AOQ_SIMT_BINDING(pipeline_without_barrier_after) { launch_pipeline<1, true, false>(call); }

// What breaks a rule at once. Each is a kernel of one warp or two, with shared memory of kSharedBytes bytes, `word` in
// global memory and a `fault` that says what to do.
struct Misuse {
  struct Params {
    int64_t fault;
    uint64_t* word;
  };
  static constexpr int kThreads = 64;
  static constexpr int kSharedBytes = 1024;

  AOQ_DEVICE static void run(const Params& p) {
    constexpr unsigned kLowerHalf = 0xffff;
    const int lane = lane_index(), thread = thread_index();
    uint32_t words[4];
    switch (p.fault) {
      case 0:  // barriers of different lines
        if (thread < 40) {
          sync_block();
        } else {
          sync_block();
        }
        break;
      case 1:  // a thread leaves before the barrier
        if (thread == 17) return;
        sync_block();
        break;
      case 2:  // half a warp asks the whole, the other half waits for the block
        if (lane < 16) ballot(true);
        sync_block();
        break;
      case 3:  // a lane that is not in its mask
        ballot(true, kLowerHalf);
        break;
      case 4:  // a source that is not in the mask
        if (lane < 16) shuffle_xor(1.0f, 16, kLowerHalf);
        break;
      case 5:  // a lane of the mask has left
        if (lane == 3) return;
        sync_warp();
        break;
      case 6: load_matrix_x4(words, shared_memory() + 16 * lane + 8); break;
      case 7: load_matrix_x4(words, shared_memory() + 32 * lane + 32); break;
      case 8: copy_async_16(shared_memory() + 4 * thread, p.word); break;
      case 9: copy_async_16(shared_memory(), reinterpret_cast<const char*>(p.word) + 4, 4); break;
      case 10:  // nobody ever writes what it waits for
        while (load_relaxed(p.word) == 0) {
        }
        break;
      default: break;
    }
  }
};

AOQ_SIMT_BINDING(misuse) {
  cuda::launch<Misuse>(2, Misuse::kSharedBytes, call.schedule(),
                       {call.integer("fault"), call.in_out<uint64_t>("word")});
}

AOQ_SIMT_BINDING(more_shared_memory_than_declared) {
  cuda::launch<Misuse>(1, Misuse::kSharedBytes + 1, call.schedule(), {});
}

// Each lane writes to shared memory what its neighbour reads; only a sync_warp between the two orders them.
template <bool kSync>
struct Neighbours {
  struct Params {
    int* result;  // (32,)
  };
  static constexpr int kThreads = 32;
  static constexpr int kSharedBytes = kThreads * sizeof(int);
  AOQ_DEVICE static void run(const Params& p) {
    auto* shared = reinterpret_cast<int*>(shared_memory());
    shared[lane_index()] = lane_index();
    const int next = shuffle(lane_index(), lane_index() + 1);  // runs the lanes in step, orders nothing
    if constexpr (kSync) sync_warp();
    p.result[lane_index()] = shared[next];
  }
};

template <bool kSync>
static void launch_neighbours(simt::Call& call) {
  cuda::launch<Neighbours<kSync>>(1, Neighbours<kSync>::kSharedBytes, call.schedule(),
                                  {call.output<int>("result", {32})});
}

AOQ_SIMT_BINDING(neighbours) { launch_neighbours<true>(call); }
AOQ_SIMT_BINDING(neighbours_without_sync) { launch_neighbours<false>(call); }

}  // namespace aoq::selftest
