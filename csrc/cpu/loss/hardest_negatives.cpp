// The selection alone: the hardest negative of every image and of every text, for use in any loss.
#include <tuple>

#include "cpu/loss/online_negatives.h"
#include "loss_checks.h"

namespace aoq::cpu {
namespace {

// (B,); −inf for an anchor without a negative.
template <class T>
Tensor negative_scores(const OnlineState<T>& state) {
  const int64_t count = int64_t(state.key.size());
  const Tensor out = empty_cpu({count}, kScalarType<T>);
  T* score = static_cast<T*>(out.mutable_data_ptr());
  for (int64_t i = 0; i < count; ++i) {
    score[i] = is_negative_key<T>(state.key[i]) ? key_score<T>(state.key[i]) : -std::numeric_limits<T>::infinity();
  }
  return out;
}

using Outputs = std::tuple<Tensor, Tensor, Tensor, Tensor>;

Outputs hardest_negatives(Tensor image, Tensor text, std::optional<Tensor> group_ids, bool) {
  checked({image, text}, Objective::kOnlineTriplet);
  const bool keep_bfloat16 = multiplies_bfloat16(image.size(1), Similarity::kDot, Online::kHardest);
  return dispatch_storage(image, keep_bfloat16, [&](auto zero) {
    using S = decltype(zero);
    using T = Compute<S>;
    const int64_t count = image.size(0);
    const Rows<S> x = load_rows<S>(image, Similarity::kDot), y = load_rows<S>(text, Similarity::kDot);
    OnlineState<T> by_image(count), by_text(count);
    const Selection<T> selection{Online::kHardest, T(0), std::vector<T>(count), load_groups<T>(group_ids, count)};
    find_online_negatives(EmbeddingScores<S>(x, y, Similarity::kDot), selection, by_image, by_text);
    return Outputs{negative_indices(by_image), negative_scores(by_image), negative_indices(by_text),
                   negative_scores(by_text)};
  });
}

}  // namespace
}  // namespace aoq::cpu

STABLE_TORCH_LIBRARY_IMPL(aoq, CPU, m) { m.impl("hardest_negatives", TORCH_BOX(&aoq::cpu::hardest_negatives)); }
