// Forward pass: anchors' own scores, one walk over the tiles of S, then the hinges of every anchor.
#include <tuple>

#include "cpu/loss/anchor_losses.h"
#include "cpu/loss/anchor_scores.h"

namespace aoq::cpu {
namespace {

using Outputs = std::tuple<Tensor, Tensor, Tensor, Tensor, Tensor>;

Outputs quintuplet_forward(Tensor image, Tensor text, std::optional<Tensor> hard_image, std::optional<Tensor> hard_text,
                           std::optional<Tensor> hard_text_image, std::optional<Tensor> hard_image_text,
                           std::optional<Tensor> group_ids, Numbers numbers, Codes codes) {
  const LossParams params = loss_params(numbers, codes);
  const EmbeddingOperands given =
      checked({image, text, hard_image, hard_text, hard_text_image, hard_image_text}, params.objective);
  const bool keep_bfloat16 = multiplies_bfloat16(image.size(1), params.similarity, params.online);
  return dispatch_storage(image, keep_bfloat16, [&](auto zero) {
    using S = decltype(zero);
    const Embeddings<S> in(given, params.similarity);
    const Tensor choice = empty_cpu({2, image.size(0)}, ScalarType::Long);
    const auto anchors = score_anchors(in, params, static_cast<int64_t*>(choice.mutable_data_ptr()));
    const auto result =
        losses_of_batch(EmbeddingScores<S>(in.image, in.text, params.similarity), anchors, group_ids, params);
    return Outputs{result.losses, result.text_index, result.image_index, choice, result.saved};
  });
}

}  // namespace
}  // namespace aoq::cpu

STABLE_TORCH_LIBRARY_IMPL(aoq, CPU, m) { m.impl("quintuplet_forward", TORCH_BOX(&aoq::cpu::quintuplet_forward)); }
