// Forward in stages, for a batch that is spread over processes: each scores its own anchors, then finds what its images
// contribute to the online negatives of the whole batch; the caller merges these; each finishes its own anchors.
#include <tuple>

#include "cpu/loss/anchor_losses.h"
#include "cpu/loss/anchor_scores.h"

namespace aoq::cpu {
namespace {

constexpr int64_t kAnchorScores = 5;  // p, a, b, c, d

std::tuple<Tensor, Tensor> anchor_scores(Tensor image, Tensor text, std::optional<Tensor> hard_image,
                                         std::optional<Tensor> hard_text, std::optional<Tensor> hard_text_image,
                                         std::optional<Tensor> hard_image_text, Numbers numbers, Codes codes) {
  const LossParams params = loss_params(numbers, codes);
  const EmbeddingOperands given =
      checked({image, text, hard_image, hard_text, hard_text_image, hard_image_text}, params.objective);
  return dispatch_storage(image, params.similarity == Similarity::kDot, [&](auto zero) {
    using S = decltype(zero);
    using T = Compute<S>;
    const Embeddings<S> in(given, params.similarity);
    const int64_t count = image.size(0);
    const Tensor choice = empty_cpu({2, count}, ScalarType::Long),
                 out = empty_cpu({kAnchorScores, count}, kScalarType<T>);
    const auto anchors = score_anchors(in, params, static_cast<int64_t*>(choice.mutable_data_ptr()));
    T* rows = static_cast<T*>(out.mutable_data_ptr());
    for (int64_t i = 0; i < count; ++i) {
      const AnchorScores<T>& s = anchors[i];
      const T values[kAnchorScores] = {s.positive, s.hard_text, s.hard_image, s.hard_pair, s.partner};
      for (int64_t r = 0; r < kAnchorScores; ++r) rows[r * count + i] = values[r];
    }
    return std::tuple(out, choice);
  });
}

// keys (2, n) int64: score in the order of math/order.h, anchor; hinges (2, n): their sum, how many are active.
template <class T>
std::tuple<Tensor, Tensor> store_state(const OnlineState<T>& state) {
  const int64_t count = int64_t(state.key.size());
  const Tensor keys = empty_cpu({2, count}, ScalarType::Long), hinges = empty_cpu({2, count}, kScalarType<T>);
  auto* key = static_cast<int64_t*>(keys.mutable_data_ptr());
  T* hinge = static_cast<T*>(hinges.mutable_data_ptr());
  std::copy(state.key.begin(), state.key.end(), key);
  std::copy(state.index.begin(), state.index.end(), key + count);
  std::copy(state.sum.begin(), state.sum.end(), hinge);
  std::copy(state.active.begin(), state.active.end(), hinge + count);
  return {keys, hinges};
}

template <class T>
OnlineState<T> load_state(const Tensor& keys, const Tensor& hinges, int64_t count, const char* name) {
  STD_TORCH_CHECK(keys.numel() == 2 * count && keys.scalar_type() == ScalarType::Long && keys.is_contiguous() &&
                      hinges.numel() == 2 * count && hinges.scalar_type() == kScalarType<T> && hinges.is_contiguous(),
                  name, " must be (2, B), contiguous");
  OnlineState<T> state(count);
  const auto* key = static_cast<const int64_t*>(keys.const_data_ptr());
  const T* hinge = static_cast<const T*>(hinges.const_data_ptr());
  std::copy(key, key + count, state.key.begin());
  std::copy(key + count, key + 2 * count, state.index.begin());
  std::copy(hinge, hinge + count, state.sum.begin());
  std::copy(hinge + count, hinge + 2 * count, state.active.begin());
  return state;
}

template <class T>
Selection<T> load_selection(const Tensor& positive, const std::optional<Tensor>& group_ids, int64_t anchors,
                            const LossParams& params) {
  check_vector(positive, anchors, kScalarType<T>, "positive");
  const Tensor values = as_contiguous<T>(positive);
  const T* p = static_cast<const T*>(values.const_data_ptr());
  return {params.online, T(params.margin_online), {p, p + anchors}, load_groups<T>(group_ids, anchors)};
}

using Negatives = std::tuple<Tensor, Tensor, Tensor, Tensor>;

template <class T, class AnyScores>
Negatives negatives_of(const AnyScores& scores, const Selection<T>& selection) {
  check_first(scores.first().row, scores.rows(), scores.columns());
  OnlineState<T> by_row(scores.rows()), by_column(scores.columns());
  find_online_negatives(scores, selection, by_row, by_column);
  return std::tuple_cat(store_state(by_row), store_state(by_column));
}

Negatives online_negatives(Tensor image, Tensor all_text, Tensor all_positive, std::optional<Tensor> all_group_ids,
                           int64_t first, Numbers numbers, Codes codes) {
  const LossParams params = loss_params(numbers, codes);
  check_floating(image, "image");
  STD_TORCH_CHECK(image.dim() == 2 && all_text.dim() == 2, "image and all_text must have shape (rows, D)");
  check_gathered(all_text, image, all_text.size(0), "all_text");
  const bool keep_bfloat16 = multiplies_bfloat16(image.size(1), params.similarity, params.online);
  return dispatch_storage(image, keep_bfloat16, [&](auto zero) {
    using S = decltype(zero);
    const Rows<S> x = load_rows<S>(image, params.similarity), y = load_rows<S>(all_text, params.similarity);
    return negatives_of(EmbeddingScores<S>(x, y, params.similarity, {.row = first}),
                        load_selection<Compute<S>>(all_positive, all_group_ids, y.count, params));
  });
}

Negatives online_negatives_of_scores(Tensor scores, Tensor all_positive, std::optional<Tensor> all_group_ids,
                                     int64_t first, Numbers numbers, Codes codes) {
  const LossParams params = loss_params(numbers, codes);
  check_score_rows(scores);
  return dispatch_compute_type(scores, [&](auto zero) {
    using T = decltype(zero);
    return negatives_of(GivenScores<T>{as_contiguous<T>(scores), {.row = first}},
                        load_selection<T>(all_positive, all_group_ids, scores.size(1), params));
  });
}

using Losses = std::tuple<Tensor, Tensor, Tensor, Tensor>;

Losses finish_anchors(Tensor scores, Tensor text_keys, Tensor text_hinges, Tensor image_keys, Tensor image_hinges,
                      Numbers numbers, Codes codes) {
  const LossParams params = loss_params(numbers, codes);
  STD_TORCH_CHECK(scores.dim() == 2 && scores.size(0) == kAnchorScores && scores.is_contiguous(),
                  "scores must have shape (5, B), contiguous");
  return dispatch_compute_type(scores, [&](auto zero) {
    using T = decltype(zero);
    STD_TORCH_CHECK(scores.scalar_type() == kScalarType<T>, "scores must be float32 or float64");
    const int64_t count = scores.size(1);
    const T* rows = static_cast<const T*>(scores.const_data_ptr());
    std::vector<AnchorScores<T>> anchors(count);
    for (int64_t i = 0; i < count; ++i) {
      const auto row = [&](int64_t r) { return rows[r * count + i]; };
      anchors[i] = {row(0), row(1), row(2), row(3), row(4)};
    }
    const auto result = anchor_losses(anchors, load_state<T>(text_keys, text_hinges, count, "text_keys"),
                                      load_state<T>(image_keys, image_hinges, count, "image_keys"), params);
    return Losses{result.losses, result.text_index, result.image_index, result.saved};
  });
}

}  // namespace
}  // namespace aoq::cpu

STABLE_TORCH_LIBRARY_IMPL(aoq, CPU, m) {
  m.impl("anchor_scores", TORCH_BOX(&aoq::cpu::anchor_scores));
  m.impl("online_negatives", TORCH_BOX(&aoq::cpu::online_negatives));
  m.impl("online_negatives_of_scores", TORCH_BOX(&aoq::cpu::online_negatives_of_scores));
  m.impl("anchor_losses", TORCH_BOX(&aoq::cpu::finish_anchors));
}
