// Memory that every forward pass finds zero and leaves zero, so that none has to clear it first.
#pragma once

#include <memory>

#include "cuda/host/operator.h"
#include "cuda/loss/forward/forward_plan.h"

namespace aoq::cuda {

// Held while an operator launches its kernels: one at a time for a stream, whose memory is CUDA's own. (Torch's would
// not do: what is allocated through it while inductor warms a graph up belongs to that graph.) Memory that is not
// released as clean, because a launch failed, is not used again. Where CUDA has none to give, and in a graph that is
// being captured, the pass gets memory of torch's, cleared first.
class WorkspaceLease {
 public:
  WorkspaceLease(const DeviceScope& scope, int64_t rows, int64_t columns);
  ~WorkspaceLease();
  WorkspaceLease(const WorkspaceLease&) = delete;
  WorkspaceLease& operator=(const WorkspaceLease&) = delete;

  const device::Workspace& get() const { return workspace_; }
  void release_clean() { clean_ = true; }

 private:
  class Slot;
  static Slot& slot_of(const DeviceScope& scope);

  cudaStream_t stream_;
  Slot* slot_ = nullptr;  // locked; null where the memory is the pass's own
  std::optional<Tensor> own_memory_;
  device::Workspace workspace_;
  bool clean_ = false;
};

}  // namespace aoq::cuda
