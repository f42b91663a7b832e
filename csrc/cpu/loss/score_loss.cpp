// The loss of a given score matrix: one pass over S forward, one write of ∂loss/∂S backward.
#include <tuple>

#include "cpu/loss/all_negatives.h"
#include "cpu/loss/anchor_losses.h"
#include "cpu/loss/backward_inputs.h"

namespace aoq::cpu {
namespace {

using Slopes = std::array<SavedRow, 4>;
constexpr Slopes kOfflineSlopes{kByHardText, kByHardImage, kByHardPair, kByPartner};

using Outputs = std::tuple<Tensor, Tensor, Tensor, Tensor>;

Outputs quintuplet_score_forward(Tensor scores, std::optional<Tensor> hard_text_scores,
                                 std::optional<Tensor> hard_image_scores, std::optional<Tensor> hard_pair_scores,
                                 std::optional<Tensor> partner_pair_scores, std::optional<Tensor> group_ids,
                                 Numbers numbers, Codes codes) {
  const LossParams params = loss_params(numbers, codes);
  OfflineScores given =
      checked({hard_text_scores, hard_image_scores, hard_pair_scores, partner_pair_scores}, scores, params);
  return dispatch_compute_type(scores, [&](auto zero) {
    using T = decltype(zero);
    for (std::optional<Tensor>& offline : given) {
      if (offline) offline = as_contiguous<T>(*offline);
    }
    const GivenScores<T> values{as_contiguous<T>(scores)};
    std::vector<AnchorScores<T>> anchors(values.rows());
    const auto score = [&](size_t which, int64_t i) {
      return given[which] ? static_cast<const T*>(given[which]->const_data_ptr())[i] : T(0);
    };
    for (int64_t i = 0; i < values.rows(); ++i) {
      anchors[i] = {values.row(i)[i], score(0, i), score(1, i), score(2, i), score(3, i)};
    }
    const auto result = losses_of_batch(values, anchors, group_ids, params);
    return Outputs{result.losses, result.text_index, result.image_index, result.saved};
  });
}

// The rows of S are those of anchors first, …, first + B − 1 of the whole batch of C.
template <class T>
struct ScoreBackward {
  GivenScores<T> scores;                    // (B, C)
  const int64_t *text_index, *image_index;  // (C,)
  const T* saved;                           // (kSavedRows, C)
  std::vector<T> grad;                      // (C,)

  T slope(SavedRow row, int64_t anchor) const { return grad[anchor] * saved[row * scores.columns() + anchor]; }
};

// A row is the sum of what its anchor, the hardest text of it, and the texts whose hardest image it is contribute.
template <class T>
Tensor score_gradient(const ScoreBackward<T>& b, const AllNegatives<T>* all) {
  const int64_t rows = b.scores.rows(), columns = b.scores.columns(), first = b.scores.first().row;
  const Tensor out = empty_cpu({rows, columns}, kScalarType<T>);
  const Choosers choosers(b.image_index, columns, first, rows);
  torch::stable::parallel_for(0, rows, 1, [&](int64_t begin, int64_t end) {
    for (int64_t i = begin; i < end; ++i) {
      const int64_t anchor = first + i;
      T* row = static_cast<T*>(out.mutable_data_ptr()) + i * columns;
      if (all) {
        all->row(anchor, 0, columns, b.scores.row(i), row);
      } else {
        std::fill(row, row + columns, T(0));
      }
      row[anchor] += b.slope(kBySelf, anchor);
      if (b.text_index[anchor] >= 0) row[b.text_index[anchor]] += b.slope(kByText, anchor);
      choosers.for_each(i, [&](int64_t chooser) { row[chooser] += b.slope(kByImage, chooser); });
    }
  });
  return out;
}

using Gradients = std::tuple<Tensor, Tensor, Tensor, Tensor, Tensor>;

Gradients quintuplet_score_backward(Tensor grad_loss, Tensor scores, std::optional<Tensor> group_ids, Tensor text_index,
                                    Tensor image_index, Tensor saved, Numbers numbers, Codes codes, int64_t needs,
                                    int64_t first) {
  const LossParams params = loss_params(numbers, codes);
  check_score_rows(scores);
  const int64_t rows = scores.size(0), anchors = scores.size(1);
  check_first(first, rows, anchors);
  std::array<Tensor, 5> grads;  // an empty one for each that is not needed
  for (Tensor& grad : grads) grad = empty_cpu({0}, scores.scalar_type());
  dispatch_compute_type(scores, [&](auto zero) {
    using T = decltype(zero);
    const GivenScores<T> given{as_contiguous<T>(scores), {.row = first}};
    const ScoreBackward<T> b{given, checked_indices(text_index, anchors, anchors, "text_index"),
                             checked_indices(image_index, anchors, anchors, "image_index"),
                             checked_saved<T>(saved, anchors), anchor_grads<T>(grad_loss, params.reduction, anchors)};
    if (is_needed(needs, 0)) {
      std::optional<AllNegatives<T>> all;
      if (params.online == Online::kAll) {
        all.emplace(b.saved, b.grad, load_groups<T>(group_ids, anchors), T(params.margin_online));
      }
      grads[0] = score_gradient(b, all ? &*all : nullptr);
    }
    for (size_t which = 0; which < kOfflineSlopes.size(); ++which) {
      if (!is_needed(needs, int(which) + 1)) continue;
      grads[which + 1] = empty_cpu({rows}, kScalarType<T>);
      T* grad = static_cast<T*>(grads[which + 1].mutable_data_ptr());
      for (int64_t i = 0; i < rows; ++i) grad[i] = b.slope(kOfflineSlopes[which], first + i);
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
