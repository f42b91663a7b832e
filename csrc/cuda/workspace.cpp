#include "cuda/workspace.h"

#include <map>
#include <mutex>

namespace aoq::cuda {

struct WorkspaceLease::Slot {
  std::mutex mutex;
  std::optional<Tensor> memory;  // bytes, zero
};

// One for each stream, kept until the process ends: destroying them later would meet a driver that is gone.
WorkspaceLease::Slot& WorkspaceLease::slot_of(const DeviceScope& scope) {
  static auto& mutex = *new std::mutex;
  static auto& slots = *new std::map<std::pair<int32_t, cudaStream_t>, Slot>;
  const std::lock_guard lock(mutex);
  return slots[{scope.device.index(), scope.stream}];
}

WorkspaceLease::WorkspaceLease(const DeviceScope& scope, int64_t rows, int64_t columns) {
  cudaStreamCaptureStatus capture = cudaStreamCaptureStatusNone;
  STD_TORCH_CHECK(cudaStreamIsCapturing(scope.stream, &capture) == cudaSuccess,
                  "aoq_ext: the state of the current CUDA stream cannot be read");
  const auto take = [&](Arena& arena) {
    auto* const ticket = arena.take<uint32_t>(1);
    auto* const row_key = arena.take<uint64_t>(rows);
    return device::Workspace{row_key, arena.take<uint64_t>(columns), ticket};
  };
  Arena measure;
  take(measure);
  const auto bytes = int64_t(measure.bytes());
  const auto zeros = [&](int64_t size) {
    const Tensor memory = scope.empty({size}, ScalarType::Byte);
    STD_TORCH_CHECK(cudaMemsetAsync(memory.data_ptr(), 0, size_t(size), scope.stream) == cudaSuccess,
                    "aoq_ext: the workspace cannot be cleared");
    return memory;
  };
  if (capture == cudaStreamCaptureStatusNone) {
    Slot& slot = slot_of(scope);
    std::unique_lock lock(slot.mutex);
    if (!slot.memory || slot.memory->numel() < bytes) slot.memory = zeros(2 * bytes);
    memory_ = slot.memory;
    slot_ = &slot;
    lock.release();  // the destructor unlocks
  } else {
    memory_ = zeros(bytes);
  }
  Arena arena(memory_->data_ptr());
  workspace_ = take(arena);
}

WorkspaceLease::~WorkspaceLease() {
  if (!slot_) return;
  if (!clean_) slot_->memory.reset();
  slot_->mutex.unlock();
}

}  // namespace aoq::cuda
