// The one way a kernel is launched. A kernel is a struct:
//   struct Kernel {
//     using Params = …;                           // pointers, sizes, strides
//     static constexpr int kThreads = …;          // of a block; whole warps
//     AOQ_DEVICE static void run(const Params&);
//   };
// launch<Kernel>(blocks, shared_bytes, stream, params) throws where the launch itself fails; no blocks, no launch.
#pragma once

#if defined(AOQ_SIMT)

#include "simt/launch.h"

#else

#include <cuda_runtime_api.h>

#include <cstddef>
#include <cstdint>
#include <stdexcept>
#include <string>
#include <typeinfo>

namespace aoq::cuda {

using Stream = cudaStream_t;

inline void check(cudaError_t status, const char* what) {
  if (status == cudaSuccess) return;
  cudaGetLastError();  // the error is reported here; the next launch must not find it again
  throw std::runtime_error(std::string("aoq_ext: ") + what + ": " + cudaGetErrorString(status));
}

// Blocks of a kernel that shall fit a processor at once: what it asks for bounds its registers, and no guess of the
// compiler.
template <class K>
constexpr int least_blocks() {
  if constexpr (requires { K::kBlocksPerProcessor; }) return K::kBlocksPerProcessor;
  return 1;
}

template <class Kernel>
__global__ void __launch_bounds__(Kernel::kThreads, least_blocks<Kernel>())
    entry(const __grid_constant__ typename Kernel::Params params) {
  Kernel::run(params);
}

template <class Kernel>
void launch(int64_t blocks, size_t shared_bytes, Stream stream, const typename Kernel::Params& params) {
  constexpr size_t kDefaultShared = 48 * 1024;
  constexpr int64_t kMostBlocks = 0x7fffffff;
  static_assert(Kernel::kThreads % 32 == 0 && Kernel::kThreads <= 1024);
  if (blocks == 0) return;
  if (blocks < 0 || blocks > kMostBlocks) {
    throw std::runtime_error("aoq_ext: a grid of " + std::to_string(blocks) + " blocks; at most 2^31 − 1");
  }
  const void* kernel = reinterpret_cast<const void*>(&entry<Kernel>);
  const char* name = typeid(Kernel).name();
  if (shared_bytes > kDefaultShared) {
    const auto bytes = static_cast<int>(shared_bytes);
    check(cudaFuncSetAttribute(kernel, cudaFuncAttributeMaxDynamicSharedMemorySize, bytes), name);
  }
  void* arguments[] = {const_cast<typename Kernel::Params*>(&params)};
  check(cudaLaunchKernel(kernel, static_cast<unsigned>(blocks), Kernel::kThreads, arguments, shared_bytes, stream),
        name);
}

// Waits for the stream and brings some words of the device's memory to the host.
template <int kCount>
void read_back(uint32_t (&words)[kCount], const uint32_t* device, Stream stream) {
  check(cudaMemcpyAsync(words, device, sizeof(words), cudaMemcpyDeviceToHost, stream), "a copy to the host");
  check(cudaStreamSynchronize(stream), "waiting for the device");
}

}  // namespace aoq::cuda

#endif
