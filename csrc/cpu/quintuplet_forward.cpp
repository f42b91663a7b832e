// Forward pass: anchors' own scores, one walk over the tiles of S, then the hinges of every anchor.
#include <tuple>

#include "checks.h"
#include "cpu/groups.h"
#include "cpu/score_tiles.h"
#include "math/hinge.h"

namespace aoq::cpu {
namespace {

template <class T>
struct Inputs {
  Rows<T> image, text;                                                    // (B, D)
  Candidates<T> hard_image, hard_text, hard_text_image, hard_image_text;  // (B·K, D)
};

// The candidate of anchor i that scores highest; ties to the lowest. NaN is highest.
template <class T, class Score>
int64_t hardest_candidate(int64_t candidates, Score score) {
  int64_t best = 0;
  Key<T> best_key = kNoKey<T>;
  for (int64_t k = 0; candidates > 1 && k < candidates; ++k) {
    const Key<T> key = order_key(score(k));
    if (key > best_key) best = k, best_key = key;
  }
  return best;
}

// p, a, b, c, d of every anchor, and which candidates they came from: choice is (2, B), text then image.
template <class T>
std::vector<AnchorScores<T>> score_anchors(const Inputs<T>& in, const LossParams& params, int64_t* choice) {
  const int64_t count = in.image.count, width = in.image.width;
  const auto score = [&](const T* x, const T* y) { return similarity_of(params.similarity, x, y, width); };
  std::vector<AnchorScores<T>> scores(count);
  torch::stable::parallel_for(0, count, kRowGrain, [&](int64_t begin, int64_t end) {
    for (int64_t i = begin; i < end; ++i) {
      const T *x = in.image.row(i), *y = in.text.row(i);
      AnchorScores<T> s{score(x, y), T(0), T(0), T(0), T(0)};
      int64_t text = 0, image = 0;
      if (params.has_offline()) {
        const auto text_score = [&](int64_t k) { return score(x, in.hard_text.at(i, k)); };
        const auto image_score = [&](int64_t k) { return score(in.hard_image.at(i, k), y); };
        text = hardest_candidate<T>(in.hard_text.per_anchor, text_score);
        image = hardest_candidate<T>(in.hard_image.per_anchor, image_score);
        s.hard_text = text_score(text);
        s.hard_image = image_score(image);
      }
      if (params.has_pairs()) {
        s.hard_pair = score(in.hard_image.at(i, image), in.hard_text.at(i, text));
        s.partner = score(in.hard_text_image.at(i, text), in.hard_image_text.at(i, image));
      }
      choice[i] = text;
      choice[count + i] = image;
      scores[i] = s;
    }
  });
  return scores;
}

template <class T>
void fold_rows(const std::vector<RowPartial<T>>& partials, int64_t blocks, const ScoreTile<T>& tile,
               OnlineState<T>& by_row) {
  for (int64_t r = 0; r < tile.rows; ++r) {
    const int64_t row = tile.first_row + r;
    for (int64_t b = 0; b < blocks; ++b) {
      const RowPartial<T>& partial = partials[r * blocks + b];
      if (partial.key > by_row.key[row]) {
        by_row.key[row] = partial.key;
        by_row.index[row] = partial.index;
      }
      by_row.sum[row] += partial.sum;
      by_row.active[row] += partial.active;
    }
  }
}

// One walk over S. Column blocks run in parallel and are folded in order, whichever thread was first.
template <class T>
void reduce_scores(const Inputs<T>& in, const std::vector<T>& positive, const std::vector<Key<T>>& groups,
                   const LossParams& params, OnlineState<T>& by_row, OnlineState<T>& by_column) {
  std::vector<RowPartial<T>> partials;
  for_each_score_tile(in.image, in.text, params.similarity, [&](const ScoreTile<T>& tile) {
    const int64_t blocks = (tile.columns + kBlockColumns - 1) / kBlockColumns;
    partials.assign(tile.rows * blocks, RowPartial<T>{kNoKey<T>, -1, T(0), T(0)});
    torch::stable::parallel_for(0, blocks, 1, [&](int64_t begin, int64_t end) {
      for (int64_t b = begin; b < end; ++b) {
        const int64_t column = b * kBlockColumns;
        reduce_block(ScoreBlock<T>{.scores = tile.scores + column,
                                   .stride = tile.columns,
                                   .rows = tile.rows,
                                   .columns = std::min(kBlockColumns, tile.columns - column),
                                   .first_row = tile.first_row,
                                   .first_column = tile.first_column + column,
                                   .positive = positive.data(),
                                   .group = groups.empty() ? nullptr : groups.data(),
                                   .margin = T(params.margin_online),
                                   .row_key = by_row.key.data(),
                                   .partial = partials.data() + b,
                                   .partial_stride = blocks,
                                   .by_column = &by_column},
                     params.online);
      }
    });
    fold_rows(partials, blocks, tile, by_row);
  });
}

template <class T>
OnlineHinge<T> online_hinge(OnlineState<T>& state, int64_t i, T positive, const LossParams& params) {
  const Key<T> key = state.key[i];
  if (!is_negative_key<T>(key)) {
    state.index[i] = -1;
    return {T(0), T(0), T(0), false};
  }
  const T hardest = key_score<T>(key);
  if (params.online == Online::kAll) return {hardest, state.sum[i], state.active[i], true};
  const T value = T(params.margin_online) + hardest - positive;
  return {hardest, hinge(value), hinge_slope(value), true};
}

template <class T>
void write_index(const OnlineState<T>& state, const Tensor& out) {
  std::copy(state.index.begin(), state.index.end(), static_cast<int64_t*>(out.mutable_data_ptr()));
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

using Outputs = std::tuple<Tensor, Tensor, Tensor, Tensor, Tensor>;

template <class T>
Outputs forward(const Inputs<T>& in, const std::optional<Tensor>& group_ids, const LossParams& params) {
  const int64_t count = in.image.count;
  const Tensor text_index = empty_cpu({count}, ScalarType::Long), image_index = empty_cpu({count}, ScalarType::Long);
  const Tensor choice = empty_cpu({2, count}, ScalarType::Long);
  const Tensor saved = empty_cpu({kSavedRows, count}, kScalarType<T>), losses = empty_cpu({count}, kScalarType<T>);

  const auto scores = score_anchors(in, params, static_cast<int64_t*>(choice.mutable_data_ptr()));
  std::vector<T> positive(count);
  for (int64_t i = 0; i < count; ++i) positive[i] = scores[i].positive;
  OnlineState<T> by_image(count), by_text(count);
  reduce_scores(in, positive, load_groups<T>(group_ids, count), params, by_image, by_text);

  T* loss = static_cast<T*>(losses.mutable_data_ptr());
  T* slopes = static_cast<T*>(saved.mutable_data_ptr());
  for (int64_t i = 0; i < count; ++i) {
    const OnlineHinge<T> text = online_hinge(by_image, i, positive[i], params);
    const OnlineHinge<T> image = online_hinge(by_text, i, positive[i], params);
    loss[i] = anchor_loss(scores[i], text, image, params, slopes, count, i);
  }
  write_index(by_image, text_index);
  write_index(by_text, image_index);
  return {reduce_loss<T>(losses, params.reduction), text_index, image_index, choice, saved};
}

Outputs quintuplet_forward(Tensor image, Tensor text, std::optional<Tensor> hard_image, std::optional<Tensor> hard_text,
                           std::optional<Tensor> hard_text_image, std::optional<Tensor> hard_image_text,
                           std::optional<Tensor> group_ids, double margin_online, double margin_offline, double alpha,
                           double beta, int64_t objective, int64_t online, int64_t similarity, int64_t reduction,
                           bool detach_weight, bool clamp_weight) {
  const LossParams params{margin_online,
                          margin_offline,
                          alpha,
                          beta,
                          check_enum(objective, Objective::kAdaptiveQuintuplet, "objective"),
                          check_enum(online, Online::kAll, "online"),
                          check_enum(similarity, Similarity::kOrder, "similarity"),
                          check_enum(reduction, Reduction::kNone, "reduction"),
                          detach_weight,
                          clamp_weight};
  check_embeddings(image, text, hard_image, hard_text, hard_text_image, hard_image_text, params.objective);
  return dispatch_compute_type(image, [&](auto zero) {
    using T = decltype(zero);
    const Similarity kind = params.similarity;
    const bool offline = params.has_offline(), pairs = params.has_pairs();
    const Inputs<T> in{load_rows<T>(image, kind),
                       load_rows<T>(text, kind),
                       load_candidates<T>(hard_image, offline, kind),
                       load_candidates<T>(hard_text, offline, kind),
                       load_candidates<T>(hard_text_image, pairs, kind),
                       load_candidates<T>(hard_image_text, pairs, kind)};
    return forward<T>(in, group_ids, params);
  });
}

}  // namespace
}  // namespace aoq::cpu

STABLE_TORCH_LIBRARY_IMPL(aoq, CPU, m) { m.impl("quintuplet_forward", TORCH_BOX(&aoq::cpu::quintuplet_forward)); }
