// Checks that keep the kernels memory-safe when an operator is called directly; Python raises the friendlier errors.
#pragma once

#include <torch/headeronly/util/Exception.h>

#include "stable_compat.h"

namespace aoq {

inline void check_floating(const Tensor& tensor, const char* name) {
  const ScalarType dtype = tensor.scalar_type();
  STD_TORCH_CHECK(dtype == ScalarType::Float || dtype == ScalarType::Double || dtype == ScalarType::Half ||
                      dtype == ScalarType::BFloat16,
                  name, " must be float32, float16, bfloat16 or float64");
}

inline void check_device(const Tensor& tensor, const Tensor& model, const char* name, const char* model_name) {
  STD_TORCH_CHECK(tensor.device() == model.device(), name, " must be on the device of ", model_name);
}

inline void check_like(const Tensor& tensor, const Tensor& model, const char* name) {
  STD_TORCH_CHECK(tensor.scalar_type() == model.scalar_type(), name, " must have the dtype of image");
  check_device(tensor, model, name, "image");
}

inline void check_vector(const Tensor& tensor, int64_t length, ScalarType dtype, const char* name) {
  STD_TORCH_CHECK(tensor.dim() == 1 && tensor.size(0) == length, name, " must have shape (", length, ",)");
  STD_TORCH_CHECK(tensor.scalar_type() == dtype, name, " has the wrong dtype");
}

template <class E>
void check_enum(E value, E last, const char* name) {
  STD_TORCH_CHECK(int64_t(value) >= 0 && value <= last, name, " has no meaning: ", int64_t(value));
}

}  // namespace aoq
