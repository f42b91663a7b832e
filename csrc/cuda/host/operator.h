// What the host side of every CUDA operator does: device, stream, allocations, and inputs as the kernels read them.
#pragma once

#include <torch/csrc/stable/accelerator.h>

#include <optional>
#include <vector>

#include "checks.h"
#include "cuda/host/arena.h"
#include "cuda/host/element_types.h"
#include "cuda/host/stream.h"
#include "dispatch.h"

namespace aoq::cuda {

using device::BFloat16;
using device::Compute;
using device::Half;

// The device of a tensor made current, and torch's stream there.
struct DeviceScope {
  explicit DeviceScope(const Tensor& tensor)
      : device(tensor.device()), guard(device.index()), stream(current_stream(device.index())) {}

  torch::stable::Device device;
  torch::stable::accelerator::DeviceGuard guard;
  cudaStream_t stream;

  Tensor empty(const std::vector<int64_t>& sizes, ScalarType dtype) const {
    return torch::stable::empty({sizes.data(), sizes.size()}, dtype, std::nullopt, device);
  }
};

template <class T>
T* data_of(const Tensor& tensor) {
  return static_cast<T*>(tensor.data_ptr());
}

// Calls f with a value of the storage type: dispatch_element(t, [&](auto zero) { using Element = decltype(zero); … }).
template <class F>
auto dispatch_element(const Tensor& input, F&& f) {
  switch (input.scalar_type()) {
    case ScalarType::Double: return f(double{});
    case ScalarType::Half: return f(Half{});
    case ScalarType::BFloat16: return f(BFloat16{});
    default: return f(float{});  // check_floating has left nothing else
  }
}

// The elements of a row that fills whole 16-byte pieces.
inline int64_t padded_width(const Tensor& rows) {
  const int64_t piece = 16 / int64_t(rows.element_size());
  return (rows.size(rows.dim() - 1) + piece - 1) / piece * piece;
}

// Whether (…, D) is a list of rows at one stride, each 16-byte aligned and of whole pieces.
inline bool has_aligned_rows(const Tensor& rows) {
  const int64_t last = rows.dim() - 1, width = rows.size(last), bytes = int64_t(rows.element_size());
  if (width != padded_width(rows) || rows.stride(last) != 1 || rows.stride(last - 1) * bytes % 16 != 0) return false;
  if (last == 2 && rows.stride(0) != rows.size(1) * rows.stride(1)) return false;
  return reinterpret_cast<uintptr_t>(rows.data_ptr()) % 16 == 0;
}

// Rows as the kernels read them: the input itself, or a copy of it padded with zeros.
inline Tensor aligned_rows(const Tensor& rows) {
  if (rows.numel() == 0 || has_aligned_rows(rows)) return rows;
  std::vector<int64_t> sizes(rows.sizes().begin(), rows.sizes().end());
  const int64_t last = rows.dim() - 1, width = sizes[last];
  sizes[last] = padded_width(rows);
  const Tensor copy = torch::stable::new_zeros(rows, {sizes.data(), sizes.size()});
  Tensor inner = copy;
  inner = torch::stable::narrow(inner, last, 0, width);
  torch::stable::copy_(inner, rows);
  return copy;
}

// (count,) int64, contiguous; nothing without group_ids.
inline std::optional<Tensor> load_group_ids(const std::optional<Tensor>& group_ids, const Tensor& image,
                                            int64_t count) {
  if (!group_ids) return std::nullopt;
  STD_TORCH_CHECK(group_ids->device() == image.device(), "group_ids must be on the device of image");
  const Tensor ids = torch::stable::contiguous(torch::stable::to(*group_ids, ScalarType::Long));
  check_vector(ids, count, ScalarType::Long, "group_ids");
  return ids;
}

// Memory for what `take(arena)` lays out, and what it returns.
template <class Take>
auto allocate(const DeviceScope& scope, Take take) {
  Arena measure;
  take(measure);
  const Tensor memory = scope.empty({int64_t(measure.bytes())}, ScalarType::Byte);
  Arena arena(memory.data_ptr());
  return std::pair(memory, take(arena));
}

}  // namespace aoq::cuda
