// The stream on which torch expects the work of the current thread.
#pragma once

#include <cuda_runtime_api.h>
#include <torch/headeronly/util/Exception.h>

#include "stable_compat.h"

// It lives in libtorch_cuda, which is not linked, so that the library loads where torch has no CUDA.
extern "C" __attribute__((weak)) AOTITorchError aoti_torch_get_current_cuda_stream(int32_t device_index,
                                                                                   void** ret_stream);

namespace aoq::cuda {

// Never the default stream in its place: work there would race with torch's.
inline cudaStream_t current_stream(int32_t device) {
  STD_TORCH_CHECK(aoti_torch_get_current_cuda_stream != nullptr, "aoq_ext: this torch has no CUDA streams");
  void* stream = nullptr;
  TORCH_ERROR_CODE_CHECK(aoti_torch_get_current_cuda_stream(device, &stream));
  return static_cast<cudaStream_t>(stream);
}

}  // namespace aoq::cuda
