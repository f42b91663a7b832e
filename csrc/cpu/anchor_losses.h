// The last step of every forward pass: from the scores of each anchor to its loss, its derivatives and their reduction.
#pragma once

#include "cpu/online_negatives.h"
#include "math/hinge.h"

namespace aoq::cpu {

// pair_score(j): the score of negative j, computed as the positive was. At margin 0 the hinge compares the two, so
// equal pairs must have equal scores; elsewhere the rounding of another summation order is no matter.
template <class T, class PairScore>
OnlineHinge<T> online_hinge(const OnlineState<T>& state, int64_t i, T positive, const LossParams& params,
                            PairScore pair_score) {
  if (!is_negative_key<T>(state.key[i])) return {T(0), T(0), T(0), false};
  const T hardest = params.margin_online == 0 ? pair_score(state.index[i]) : key_score<T>(state.key[i]);
  if (params.online == Online::kAll) return {hardest, state.sum[i], state.active[i], true};
  const T value = T(params.margin_online) + hardest - positive;
  return {hardest, hinge(value), hinge_slope(value), true};
}

// Summed in float64 and in order.
template <class T>
Tensor reduce_loss(const Tensor& losses, Reduction reduction) {
  if (reduction == Reduction::kNone) return losses;
  const int64_t count = losses.size(0);
  const T* values = static_cast<const T*>(losses.const_data_ptr());
  double sum = 0;
  for (int64_t i = 0; i < count; ++i) sum += values[i];
  const Tensor total = empty_cpu({}, kScalarType<T>);
  *static_cast<T*>(total.mutable_data_ptr()) = T(reduction == Reduction::kMean && count ? sum / count : sum);
  return total;
}

template <class T>
struct ForwardResult {
  Tensor loss;                     // () or (B,)
  Tensor text_index, image_index;  // (B,)
  Tensor saved;                    // (kSavedRows, B)
};

// Reduces S and finishes every anchor; anchors hold p, a, b, c, d.
template <class T, class Scores>
ForwardResult<T> forward_from(Scores scores, const std::vector<AnchorScores<T>>& anchors,
                              const std::optional<Tensor>& group_ids, const LossParams& params) {
  const int64_t count = int64_t(anchors.size());
  std::vector<T> positive(count);
  for (int64_t i = 0; i < count; ++i) positive[i] = anchors[i].positive;
  const bool compares =
      params.online == Online::kSemihard || (params.online == Online::kAll && params.margin_online == 0);
  if (compares) scores.resolve_ties_with(positive.data());
  OnlineState<T> by_image(count), by_text(count);
  reduce_scores(scores, positive, load_groups<T>(group_ids, count), params.online, T(params.margin_online), by_image,
                by_text);

  const Tensor saved = empty_cpu({kSavedRows, count}, kScalarType<T>), losses = empty_cpu({count}, kScalarType<T>);
  T* loss = static_cast<T*>(losses.mutable_data_ptr());
  T* slopes = static_cast<T*>(saved.mutable_data_ptr());
  torch::stable::parallel_for(0, count, kRowGrain, [&](int64_t begin, int64_t end) {
    for (int64_t i = begin; i < end; ++i) {
      const auto text_score = [&](int64_t j) { return scores.pair(i, j); };
      const auto image_score = [&](int64_t j) { return scores.pair(j, i); };
      const OnlineHinge<T> text = online_hinge(by_image, i, positive[i], params, text_score);
      const OnlineHinge<T> image = online_hinge(by_text, i, positive[i], params, image_score);
      loss[i] = anchor_loss(anchors[i], text, image, params, slopes, count, i);
    }
  });
  return {reduce_loss<T>(losses, params.reduction), negative_indices(by_image), negative_indices(by_text), saved};
}

}  // namespace aoq::cpu
