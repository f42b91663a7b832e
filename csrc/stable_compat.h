// The only file that touches torch's C shim beyond its C++ wrappers: operations the stable headers lack.
#pragma once

#include <torch/csrc/inductor/aoti_torch/generated/c_shim_cpu.h>
#include <torch/csrc/stable/library.h>
#include <torch/csrc/stable/ops.h>
#include <torch/csrc/stable/tensor.h>
#include <torch/headeronly/core/ScalarType.h>

#include <array>
#include <vector>

namespace aoq {

using torch::headeronly::ScalarType;
using torch::stable::Tensor;

// out = left · right, through torch's matrix product; out (M, N), left (M, K), right (K, N), any strides, on the CPU.
inline void mm_out(const Tensor& out, const Tensor& left, const Tensor& right) {
  TORCH_ERROR_CODE_CHECK(aoti_torch_cpu_mm_out(out.get(), left.get(), right.get()));
}

// out += left · right.
inline void addmm_(const Tensor& out, const Tensor& left, const Tensor& right) {
  TORCH_ERROR_CODE_CHECK(aoti_torch_cpu_addmm_out(out.get(), out.get(), left.get(), right.get(), 1.0, 1.0));
}

inline Tensor empty_cpu(const std::vector<int64_t>& sizes, ScalarType dtype) {
  return torch::stable::empty({sizes.data(), sizes.size()}, dtype, std::nullopt,
                              torch::stable::Device(torch::headeronly::DeviceType::CPU));
}

// A contiguous (rows, cols) view of memory that the caller keeps alive.
inline Tensor cpu_view(void* data, int64_t rows, int64_t cols, ScalarType dtype) {
  const std::array<int64_t, 2> sizes{rows, cols}, strides{cols, 1};
  return torch::stable::from_blob(data, {sizes.data(), 2}, {strides.data(), 2},
                                  torch::stable::Device(torch::headeronly::DeviceType::CPU), dtype);
}

}  // namespace aoq
