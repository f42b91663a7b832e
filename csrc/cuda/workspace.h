// Memory that every forward pass finds zero and leaves zero, so that none has to clear it first.
#pragma once

#include <memory>

#include "cuda/forward_plan.h"
#include "cuda/host.h"

namespace aoq::cuda {

// Held while an operator launches its kernels: one at a time for a stream. Memory that is not released as clean,
// because a launch failed, is not used again. A graph that is being captured gets memory of its own, cleared by a node.
class WorkspaceLease {
 public:
  WorkspaceLease(const DeviceScope& scope, int64_t rows, int64_t columns);
  ~WorkspaceLease();
  WorkspaceLease(const WorkspaceLease&) = delete;
  WorkspaceLease& operator=(const WorkspaceLease&) = delete;

  const device::Workspace& get() const { return workspace_; }
  void release_clean() { clean_ = true; }

 private:
  struct Slot;
  static Slot& slot_of(const DeviceScope& scope);

  Slot* slot_ = nullptr;  // locked; null under capture
  std::optional<Tensor> memory_;
  device::Workspace workspace_;
  bool clean_ = false;
};

}  // namespace aoq::cuda
