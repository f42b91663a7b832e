// What both backward passes read beside the operands, checked without looking at values, which are on the device: the
// kernels ignore indices that are out of range.
#pragma once

#include <limits>

#include "cuda/host/operator.h"
#include "cuda/loss/backward/backward_params.h"
#include "loss_checks.h"

namespace aoq::cuda {

inline int64_t processor_count(const DeviceScope& scope) {
  int count = 0;
  STD_TORCH_CHECK(cudaDeviceGetAttribute(&count, cudaDevAttrMultiProcessorCount, scope.device.index()) == cudaSuccess,
                  "aoq_ext: the number of the GPU's processors cannot be read");
  return count;
}

// The values of an index tensor of forward.
inline const int64_t* index_values(const Tensor& index, int64_t count, const Tensor& model, const char* name) {
  STD_TORCH_CHECK(index.numel() == count && index.scalar_type() == ScalarType::Long && index.is_contiguous() &&
                      index.device() == model.device(),
                  name, " must be what forward returned");
  return data_of<const int64_t>(index);
}

// What forward saved, and ∂loss/∂L.
template <class T>
class LoadedSlopes {
 public:
  device::LossSlopes<T> slopes;

  LoadedSlopes(const Tensor& saved, const Tensor& grad_loss, Reduction reduction, int64_t anchors, const Tensor& model)
      : grad_(torch::stable::contiguous(torch::stable::to(grad_loss, kScalarType<T>))) {
    const bool each = reduction == Reduction::kNone;
    STD_TORCH_CHECK(saved.numel() == kSavedRows * anchors && saved.scalar_type() == kScalarType<T> &&
                        saved.is_contiguous() && saved.device() == model.device(),
                    "saved must be what forward returned");
    STD_TORCH_CHECK(grad_.numel() == (each ? anchors : 1) && grad_.device() == model.device(),
                    "grad_loss has the wrong shape or device");
    STD_TORCH_CHECK(anchors <= std::numeric_limits<int32_t>::max(), "a batch has at most 2^31 - 1 anchors");
    slopes = {data_of<const T>(saved), data_of<const T>(grad_), each ? 1 : 0,
              reduction == Reduction::kMean ? T(anchors) : T(1), anchors};
  }

 private:
  Tensor grad_;
};

}  // namespace aoq::cuda
