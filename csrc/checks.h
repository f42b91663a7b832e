// Checks that keep the kernels memory-safe when an operator is called directly; Python raises the friendlier errors.
#pragma once

#include <torch/headeronly/util/Exception.h>

#include <optional>

#include "params.h"
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

// An offline negative: (B, D) or (B, K, D) with K ≥ 1.
inline void check_offline(const std::optional<Tensor>& tensor, const Tensor& image, const char* name) {
  STD_TORCH_CHECK(tensor.has_value(), name, " is required by this objective");
  check_like(*tensor, image, name);
  const int64_t dim = tensor->dim();
  STD_TORCH_CHECK(dim == 2 || dim == 3, name, " must have shape (B, D) or (B, K, D), got ", dim, " dimensions");
  STD_TORCH_CHECK(tensor->size(0) == image.size(0) && tensor->size(dim - 1) == image.size(1), name,
                  " must have shape (B, D) or (B, K, D) with B = ", image.size(0), " and D = ", image.size(1));
  STD_TORCH_CHECK(dim == 2 || tensor->size(1) > 0, name, " must have at least one candidate");
}

inline void check_partner(const std::optional<Tensor>& partner, const Tensor& owner, const Tensor& image,
                          const char* name) {
  check_offline(partner, image, name);
  STD_TORCH_CHECK(partner->dim() == owner.dim() && (owner.dim() == 2 || partner->size(1) == owner.size(1)), name,
                  " must have the shape of the negative it belongs to");
}

// The embedding form's tensors, as far as the objective uses them.
inline void check_embeddings(const Tensor& image, const Tensor& text, const std::optional<Tensor>& hard_image,
                             const std::optional<Tensor>& hard_text, const std::optional<Tensor>& hard_text_image,
                             const std::optional<Tensor>& hard_image_text, Objective objective) {
  check_floating(image, "image");
  STD_TORCH_CHECK(image.dim() == 2, "image must have shape (B, D), got ", image.dim(), " dimensions");
  check_like(text, image, "text");
  STD_TORCH_CHECK(text.dim() == 2 && text.size(0) == image.size(0) && text.size(1) == image.size(1),
                  "text must have the shape of image, (", image.size(0), ", ", image.size(1), ")");
  if (objective >= Objective::kOfflineTriplet) {
    check_offline(hard_image, image, "hard_image");
    check_offline(hard_text, image, "hard_text");
  }
  if (objective >= Objective::kOfflineQuintuplet) {
    check_partner(hard_text_image, *hard_text, image, "hard_text_image");
    check_partner(hard_image_text, *hard_image, image, "hard_image_text");
  }
}

// The rows of every process, among them those of this one from row `first`.
inline void check_gathered(const std::optional<Tensor>& all, const Tensor& own, int64_t anchors, const char* name) {
  if (!all) return;
  check_like(*all, own, name);
  STD_TORCH_CHECK(all->dim() == 2 && all->size(0) == anchors && all->size(1) == own.size(1), name,
                  " must have shape (C, D), (", anchors, ", ", own.size(1), ")");
}

// S of this process: its images against the texts of every process.
inline void check_score_rows(const Tensor& scores) {
  check_floating(scores, "scores");
  STD_TORCH_CHECK(scores.dim() == 2, "scores must be a matrix, got ", scores.dim(), " dimensions");
}

inline void check_first(int64_t first, int64_t rows, int64_t anchors) {
  STD_TORCH_CHECK(first >= 0 && first + rows <= anchors, "first must place ", rows, " rows among ", anchors,
                  " anchors, got ", first);
}

template <class E>
E check_enum(int64_t value, E last, const char* name) {
  STD_TORCH_CHECK(value >= 0 && value <= static_cast<int64_t>(last), name, " has no meaning: ", value);
  return static_cast<E>(value);
}

inline LossParams make_params(double margin_online, double margin_offline, double alpha, double beta, int64_t objective,
                              int64_t online, int64_t similarity, int64_t reduction, bool detach_weight,
                              bool clamp_weight) {
  return {margin_online,
          margin_offline,
          alpha,
          beta,
          check_enum(objective, Objective::kAdaptiveQuintuplet, "objective"),
          check_enum(online, Online::kAll, "online"),
          check_enum(similarity, Similarity::kOrder, "similarity"),
          check_enum(reduction, Reduction::kNone, "reduction"),
          detach_weight,
          clamp_weight};
}

}  // namespace aoq
