// Launches of kernels that know their own grid: static blocks(params), and kSharedBytes.
#pragma once

#include "cuda/host/launch.h"

namespace aoq::device {

template <class Kernel>
void launch_all(const typename Kernel::Params& params, cuda::Stream stream) {
  cuda::launch<Kernel>(Kernel::blocks(params), Kernel::kSharedBytes, stream, params);
}

}  // namespace aoq::device
