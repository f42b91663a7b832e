// The arguments of the loss's operators, and what must hold of them on every device.
#pragma once

#include <array>
#include <optional>
#include <vector>

#include "checks.h"
#include "params.h"

namespace aoq {

using Numbers = std::vector<double>;
using Codes = std::vector<int64_t>;

inline LossParams loss_params(const Numbers& numbers, const Codes& codes) {
  STD_TORCH_CHECK(numbers.size() == LossParams::kNumbers && codes.size() == LossParams::kCodes,
                  "numbers and codes must be those of LossOptions");
  const LossParams params = LossParams::of_lists(numbers.data(), codes.data());
  check_enum(params.objective, Objective::kAdaptiveQuintuplet, "objective");
  check_enum(params.online, Online::kAll, "online");
  check_enum(params.similarity, Similarity::kOrder, "similarity");
  check_enum(params.reduction, Reduction::kNone, "reduction");
  return params;
}

// By Gradient; without those that the objective does not use.
using EmbeddingOperands = std::array<std::optional<Tensor>, kGradients>;

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

inline EmbeddingOperands checked(EmbeddingOperands given, Objective objective) {
  const Tensor &image = *given[kImageRow], &text = *given[kTextRow];
  check_floating(image, "image");
  STD_TORCH_CHECK(image.dim() == 2, "image must have shape (B, D), got ", image.dim(), " dimensions");
  check_like(text, image, "text");
  STD_TORCH_CHECK(text.dim() == 2 && text.size(0) == image.size(0) && text.size(1) == image.size(1),
                  "text must have the shape of image, (", image.size(0), ", ", image.size(1), ")");
  if (objective >= Objective::kOfflineTriplet) {
    check_offline(given[kHardImage], image, "hard_image");
    check_offline(given[kHardText], image, "hard_text");
  } else {
    given[kHardImage] = given[kHardText] = std::nullopt;
  }
  if (objective >= Objective::kOfflineQuintuplet) {
    check_partner(given[kHardTextImage], *given[kHardText], image, "hard_text_image");
    check_partner(given[kHardImageText], *given[kHardImage], image, "hard_image_text");
  } else {
    given[kHardTextImage] = given[kHardImageText] = std::nullopt;
  }
  return given;
}

inline void check_first(int64_t first, int64_t rows, int64_t anchors) {
  STD_TORCH_CHECK(first >= 0 && first + rows <= anchors, "first must place ", rows, " rows among ", anchors,
                  " anchors, got ", first);
}

// The rows of every process, among them those of this one from row `first`.
inline void check_gathered(const std::optional<Tensor>& all, const Tensor& own, int64_t anchors, const char* name) {
  if (!all) return;
  check_like(*all, own, name);
  STD_TORCH_CHECK(all->dim() == 2 && all->size(0) == anchors && all->size(1) == own.size(1), name,
                  " must have shape (C, D), (", anchors, ", ", own.size(1), ")");
}

// The gradients that are needed and exist; rows first, … are this process's of `anchors`.
inline int64_t checked_needs(int64_t needs, const EmbeddingOperands& own, const std::optional<Tensor>& all_image,
                             const std::optional<Tensor>& all_text, int64_t first, int64_t anchors) {
  const int64_t rows = own[kImageRow]->size(0);
  check_first(first, rows, anchors);
  check_gathered(all_image, *own[kImageRow], anchors, "all_image");
  check_gathered(all_text, *own[kTextRow], anchors, "all_text");
  STD_TORCH_CHECK(
      rows == anchors || ((all_text || !is_needed(needs, kImageRow)) && (all_image || !is_needed(needs, kTextRow))),
      "the gradient of some rows of a batch needs all_text for image and all_image for text");
  int64_t existing = 0;
  for (int g = 0; g < kGradients; ++g) existing |= int64_t(own[g].has_value()) << g;
  return needs & existing;
}

// S of this process: its images against the texts of every process.
inline void check_score_rows(const Tensor& scores) {
  check_floating(scores, "scores");
  STD_TORCH_CHECK(scores.dim() == 2, "scores must be a matrix, got ", scores.dim(), " dimensions");
}

// a, b, c, d, (B,) each; without those that the objective does not use.
using OfflineScores = std::array<std::optional<Tensor>, 4>;

inline OfflineScores checked(OfflineScores given, const Tensor& scores, const LossParams& params) {
  check_score_rows(scores);
  STD_TORCH_CHECK(scores.size(0) == scores.size(1), "scores must be square, (B, B)");
  constexpr std::array kNames{"hard_text_scores", "hard_image_scores", "hard_pair_scores", "partner_pair_scores"};
  for (size_t which = 0; which < given.size(); ++which) {
    if (!(which < 2 ? params.has_offline() : params.has_pairs())) {
      given[which] = std::nullopt;
      continue;
    }
    STD_TORCH_CHECK(given[which].has_value(), kNames[which], " is required by this objective");
    check_vector(*given[which], scores.size(0), scores.scalar_type(), kNames[which]);
    check_device(*given[which], scores, kNames[which], "scores");
  }
  return given;
}

}  // namespace aoq
