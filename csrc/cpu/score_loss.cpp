// The loss of a given score matrix: one pass over S forward, one write of ∂loss/∂S backward.
#include <tuple>

#include "cpu/all_negatives.h"
#include "cpu/anchor_losses.h"
#include "cpu/backward_inputs.h"

namespace aoq::cpu {
namespace {

using Slopes = std::array<SavedRow, 4>;
constexpr Slopes kOfflineSlopes{kByHardText, kByHardImage, kByHardPair, kByPartner};

void check_scores(const Tensor& scores) {
  check_floating(scores, "scores");
  STD_TORCH_CHECK(scores.dim() == 2 && scores.size(0) == scores.size(1), "scores must be square, (B, B)");
}

// a, b, c or d as a contiguous (B,) in the compute type; empty when the objective has none.
template <class T>
std::optional<Tensor> load_offline(const std::optional<Tensor>& input, bool needed, const Tensor& scores,
                                   const char* name) {
  if (!needed) return std::nullopt;
  STD_TORCH_CHECK(input.has_value(), name, " is required by this objective");
  check_vector(*input, scores.size(0), scores.scalar_type(), name);
  return as_contiguous<T>(*input);
}

using Outputs = std::tuple<Tensor, Tensor, Tensor, Tensor>;

Outputs quintuplet_score_forward(Tensor scores, std::optional<Tensor> hard_text_scores,
                                 std::optional<Tensor> hard_image_scores, std::optional<Tensor> hard_pair_scores,
                                 std::optional<Tensor> partner_pair_scores, std::optional<Tensor> group_ids,
                                 double margin_online, double margin_offline, double alpha, double beta,
                                 int64_t objective, int64_t online, int64_t reduction, bool detach_weight,
                                 bool clamp_weight) {
  const LossParams params = make_params(margin_online, margin_offline, alpha, beta, objective, online,
                                        int64_t(Similarity::kDot), reduction, detach_weight, clamp_weight);
  check_scores(scores);
  return dispatch_compute_type(scores, [&](auto zero) {
    using T = decltype(zero);
    const bool offline = params.has_offline(), pairs = params.has_pairs();
    const std::array<std::optional<Tensor>, 4> given{
        load_offline<T>(hard_text_scores, offline, scores, "hard_text_scores"),
        load_offline<T>(hard_image_scores, offline, scores, "hard_image_scores"),
        load_offline<T>(hard_pair_scores, pairs, scores, "hard_pair_scores"),
        load_offline<T>(partner_pair_scores, pairs, scores, "partner_pair_scores")};
    const GivenScores<T> values{as_contiguous<T>(scores)};
    std::vector<AnchorScores<T>> anchors(values.count());
    const auto score = [&](size_t which, int64_t i) {
      return given[which] ? static_cast<const T*>(given[which]->const_data_ptr())[i] : T(0);
    };
    for (int64_t i = 0; i < values.count(); ++i) {
      anchors[i] = {values.row(i)[i], score(0, i), score(1, i), score(2, i), score(3, i)};
    }
    const auto result = forward_from(values, anchors, group_ids, params);
    return Outputs{result.loss, result.text_index, result.image_index, result.saved};
  });
}

template <class T>
struct ScoreBackward {
  GivenScores<T> scores;
  const int64_t *text_index, *image_index;  // (B,)
  const T* saved;                           // (kSavedRows, B)
  std::vector<T> grad;                      // (B,)

  T slope(SavedRow row, int64_t i) const { return grad[i] * saved[row * scores.count() + i]; }
};

// Row i is the sum of what anchor i, its hardest text, and the texts whose hardest image is i contribute.
template <class T>
Tensor score_gradient(const ScoreBackward<T>& b, const AllNegatives<T>* all) {
  const int64_t count = b.scores.count();
  const Tensor out = empty_cpu({count, count}, kScalarType<T>);
  const Choosers choosers(b.image_index, count);
  torch::stable::parallel_for(0, count, 1, [&](int64_t begin, int64_t end) {
    for (int64_t i = begin; i < end; ++i) {
      T* row = static_cast<T*>(out.mutable_data_ptr()) + i * count;
      if (all) {
        all->row(i, 0, count, b.scores.row(i), row);
      } else {
        std::fill(row, row + count, T(0));
      }
      row[i] += b.slope(kBySelf, i);
      if (b.text_index[i] >= 0) row[b.text_index[i]] += b.slope(kByText, i);
      choosers.for_each(i, [&](int64_t anchor) { row[anchor] += b.slope(kByImage, anchor); });
    }
  });
  return out;
}

using Gradients = std::tuple<Tensor, Tensor, Tensor, Tensor, Tensor>;

Gradients quintuplet_score_backward(Tensor grad_loss, Tensor scores, std::optional<Tensor> group_ids, Tensor text_index,
                                    Tensor image_index, Tensor saved, double margin_online, int64_t online,
                                    int64_t reduction, int64_t needs) {
  check_scores(scores);
  const int64_t count = scores.size(0);
  std::array<Tensor, 5> grads;  // an empty one for each that is not needed
  for (Tensor& grad : grads) grad = empty_cpu({0}, scores.scalar_type());
  dispatch_compute_type(scores, [&](auto zero) {
    using T = decltype(zero);
    const ScoreBackward<T> b{{as_contiguous<T>(scores)},
                             checked_indices(text_index, count, count, "text_index"),
                             checked_indices(image_index, count, count, "image_index"),
                             checked_saved<T>(saved, count),
                             anchor_grads<T>(grad_loss, check_enum(reduction, Reduction::kNone, "reduction"), count)};
    if (needs & 1) {
      std::optional<AllNegatives<T>> all;
      if (check_enum(online, Online::kAll, "online") == Online::kAll) {
        all.emplace(b.saved, b.grad, load_groups<T>(group_ids, count), T(margin_online));
      }
      grads[0] = score_gradient(b, all ? &*all : nullptr);
    }
    for (size_t which = 0; which < kOfflineSlopes.size(); ++which) {
      if (!(needs >> (which + 1) & 1)) continue;
      grads[which + 1] = empty_cpu({count}, kScalarType<T>);
      T* grad = static_cast<T*>(grads[which + 1].mutable_data_ptr());
      for (int64_t i = 0; i < count; ++i) grad[i] = b.slope(kOfflineSlopes[which], i);
    }
  });
  for (Tensor& grad : grads) {
    if (grad.scalar_type() != scores.scalar_type()) grad = torch::stable::to(grad, scores.scalar_type());
  }
  return {grads[0], grads[1], grads[2], grads[3], grads[4]};
}

}  // namespace
}  // namespace aoq::cpu

STABLE_TORCH_LIBRARY_IMPL(aoq, CPU, m) {
  m.impl("quintuplet_score_forward", TORCH_BOX(&aoq::cpu::quintuplet_score_forward));
  m.impl("quintuplet_score_backward", TORCH_BOX(&aoq::cpu::quintuplet_score_backward));
}
