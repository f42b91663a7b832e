// The last step of every forward pass: from the scores of each anchor to its loss, its derivatives and their reduction.
#pragma once

#include "cpu/loss/online_negatives.h"
#include "math/hinge.h"

namespace aoq::cpu {

template <class T>
OnlineHinge<T> online_hinge(const OnlineState<T>& state, int64_t i, T positive, const LossParams& params) {
  if (!is_negative_key<T>(state.key[i])) return {T(0), T(0), T(0), false};
  const T hardest = key_score<T>(state.key[i]);
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
struct AnchorLosses {
  Tensor losses;                   // (B,)
  Tensor text_index, image_index;  // (B,)
  Tensor saved;                    // (kSavedRows, B)
};

// anchors hold p, a, b, c, d; by_image and by_text the online negatives of the B images and of the B texts.
template <class T>
AnchorLosses<T> anchor_losses(const std::vector<AnchorScores<T>>& anchors, const OnlineState<T>& by_image,
                              const OnlineState<T>& by_text, const LossParams& params) {
  const int64_t count = int64_t(anchors.size());
  const Tensor saved = empty_cpu({kSavedRows, count}, kScalarType<T>), losses = empty_cpu({count}, kScalarType<T>);
  T* loss = static_cast<T*>(losses.mutable_data_ptr());
  T* slopes = static_cast<T*>(saved.mutable_data_ptr());
  torch::stable::parallel_for(0, count, kRowGrain, [&](int64_t begin, int64_t end) {
    for (int64_t i = begin; i < end; ++i) {
      const OnlineHinge<T> text = online_hinge(by_image, i, anchors[i].positive, params);
      const OnlineHinge<T> image = online_hinge(by_text, i, anchors[i].positive, params);
      loss[i] = anchor_loss(anchors[i], text, image, params, slopes, count, i);
    }
  });
  return {losses, negative_indices(by_image), negative_indices(by_text), saved};
}

// From the scores of the anchors and a square S to everything that forward returns; `losses` are reduced.
template <class T, class AnyScores>
AnchorLosses<T> losses_of_batch(const AnyScores& scores, const std::vector<AnchorScores<T>>& anchors,
                                const std::optional<Tensor>& group_ids, const LossParams& params) {
  const int64_t count = int64_t(anchors.size());
  Selection<T> selection{params.online, T(params.margin_online), std::vector<T>(count),
                         load_groups<T>(group_ids, count)};
  for (int64_t i = 0; i < count; ++i) selection.positive[i] = anchors[i].positive;
  OnlineState<T> by_image(count), by_text(count);
  find_online_negatives(scores, selection, by_image, by_text);
  AnchorLosses<T> result = anchor_losses(anchors, by_image, by_text, params);
  result.losses = reduce_loss<T>(result.losses, params.reduction);
  return result;
}

}  // namespace aoq::cpu
