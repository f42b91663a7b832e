// torch's matrix product, called through the dispatcher, so that nothing of libtorch_cuda is linked. It follows torch's
// settings, TF32 among them, and the current stream.
#pragma once

#include "stable_compat.h"

namespace aoq::cuda {

// out = left · right; out (M, N), left (M, K), right (K, N), any strides.
inline void multiply_out(const Tensor& out, const Tensor& left, const Tensor& right) {
  using torch::stable::detail::from;
  std::array<StableIValue, 3> stack{from(left), from(right), from(out)};
  TORCH_ERROR_CODE_CHECK(torch_call_dispatcher("aten::mm", "out", stack.data(), TORCH_ABI_VERSION));
  torch::stable::detail::to<Tensor>(stack[0]);  // out again, which the stack owned
}

}  // namespace aoq::cuda
