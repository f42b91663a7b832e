// The emulator's twin of csrc/cuda/host/launch.h, which documents it and includes this file.
#pragma once

#include <typeinfo>

#include "simt/runtime.h"

namespace aoq::cuda {

using Stream = simt::Schedule;

template <class Kernel>
void launch(int64_t blocks, size_t shared_bytes, const Stream& stream, const typename Kernel::Params& params) {
  static_assert(Kernel::kThreads % 32 == 0 && Kernel::kThreads <= 1024);
  check_shared<Kernel>(shared_bytes);
  const auto run = [](const void* arguments) { Kernel::run(*static_cast<const typename Kernel::Params*>(arguments)); };
  simt::launch(typeid(Kernel).name(), blocks, Kernel::kThreads, shared_bytes, stream, run, &params);
}

template <int kCount>
void read_back(uint32_t (&words)[kCount], const uint32_t* device, const Stream&) {
  for (int i = 0; i < kCount; ++i) words[i] = device[i];
}

}  // namespace aoq::cuda
