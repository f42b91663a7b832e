// The one way a kernel is launched. A kernel is a struct:
//   struct Kernel {
//     using Params = …;                           // pointers, sizes, strides
//     static constexpr int kThreads = …;          // of a block; whole warps
//     static constexpr int kSharedBytes = …;      // the most that a launch takes
//     AOQ_DEVICE static void run(const Params&);
//   };
// launch<Kernel>(blocks, shared_bytes, stream, params) throws where the launch itself fails; no blocks, no launch.
#pragma once

#include <cstddef>
#include <stdexcept>
#include <string>

namespace aoq::cuda {

template <class Kernel>
void check_shared(size_t shared_bytes) {
  if (shared_bytes <= size_t(Kernel::kSharedBytes)) return;
  throw std::runtime_error("aoq_ext: a launch with " + std::to_string(shared_bytes) +
                           " bytes of shared memory; the kernel declares " + std::to_string(Kernel::kSharedBytes));
}

}  // namespace aoq::cuda

#if defined(AOQ_SIMT)

#include "simt/launch.h"

#else

#include <cuda_runtime_api.h>

#include <cstdint>
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
  check_shared<Kernel>(shared_bytes);
  if (shared_bytes > kDefaultShared) {  // what is set is the same for every launch: threads launch at the same time
    check(cudaFuncSetAttribute(kernel, cudaFuncAttributeMaxDynamicSharedMemorySize, Kernel::kSharedBytes), name);
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
