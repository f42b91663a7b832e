#include "cuda/loss/workspace.h"

#include <map>
#include <mutex>

namespace aoq::cuda {

class WorkspaceLease::Slot {
 public:
  std::mutex mutex;

  // At least `bytes` of zeros; null where there is no memory. All work on it, its end too, is in the order of the
  // stream.
  void* get(int64_t bytes, cudaStream_t stream) {
    if (bytes <= bytes_) return memory_;
    discard(stream);
    const int64_t wanted = 2 * bytes;
    if (cudaMallocAsync(&memory_, size_t(wanted), stream) != cudaSuccess) {
      cudaGetLastError();  // the pass goes on without
      return memory_ = nullptr;
    }
    bytes_ = wanted;
    if (cudaMemsetAsync(memory_, 0, size_t(wanted), stream) != cudaSuccess) {
      cudaGetLastError();
      discard(stream);
    }
    return memory_;
  }

  void discard(cudaStream_t stream) {
    if (memory_ && cudaFreeAsync(memory_, stream) != cudaSuccess) cudaGetLastError();
    memory_ = nullptr;
    bytes_ = 0;
  }

 private:
  void* memory_ = nullptr;
  int64_t bytes_ = 0;
};

// One for each stream, kept until the process ends: destroying them later would meet a driver that is gone.
WorkspaceLease::Slot& WorkspaceLease::slot_of(const DeviceScope& scope) {
  static auto& mutex = *new std::mutex;
  static auto& slots = *new std::map<std::pair<int32_t, cudaStream_t>, Slot>;
  const std::lock_guard lock(mutex);
  return slots[{scope.device.index(), scope.stream}];
}

WorkspaceLease::WorkspaceLease(const DeviceScope& scope, int64_t rows, int64_t columns) : stream_(scope.stream) {
  cudaStreamCaptureStatus capture = cudaStreamCaptureStatusNone;
  STD_TORCH_CHECK(cudaStreamIsCapturing(stream_, &capture) == cudaSuccess,
                  "aoq_ext: the state of the current CUDA stream cannot be read");
  const auto take = [&](Arena& arena) {
    auto* const ticket = arena.take<uint32_t>(1);
    auto* const row_key = arena.take<uint64_t>(rows);
    return device::Workspace{row_key, arena.take<uint64_t>(columns), ticket};
  };
  Arena measure;
  take(measure);
  const auto bytes = int64_t(measure.bytes());
  void* memory = nullptr;
  if (capture == cudaStreamCaptureStatusNone) {
    Slot& slot = slot_of(scope);
    std::unique_lock lock(slot.mutex);
    memory = slot.get(bytes, stream_);
    if (memory) {
      slot_ = &slot;
      lock.release();  // the destructor unlocks
    }
  }
  if (!memory) {
    own_memory_ = scope.empty({bytes}, ScalarType::Byte);
    memory = own_memory_->data_ptr();
    STD_TORCH_CHECK(cudaMemsetAsync(memory, 0, size_t(bytes), stream_) == cudaSuccess,
                    "aoq_ext: the workspace cannot be cleared");
  }
  Arena arena(memory);
  workspace_ = take(arena);
}

WorkspaceLease::~WorkspaceLease() {
  if (!slot_) return;
  if (!clean_) slot_->discard(stream_);
  slot_->mutex.unlock();
}

}  // namespace aoq::cuda
