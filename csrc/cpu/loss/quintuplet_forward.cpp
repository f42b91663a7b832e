// Forward pass: anchors' own scores, one walk over the tiles of S, then the hinges of every anchor.
#include <tuple>

#include "checks.h"
#include "cpu/loss/anchor_losses.h"
#include "cpu/loss/anchor_scores.h"

namespace aoq::cpu {
namespace {

using Outputs = std::tuple<Tensor, Tensor, Tensor, Tensor, Tensor>;

Outputs quintuplet_forward(Tensor image, Tensor text, std::optional<Tensor> hard_image, std::optional<Tensor> hard_text,
                           std::optional<Tensor> hard_text_image, std::optional<Tensor> hard_image_text,
                           std::optional<Tensor> group_ids, double margin_online, double margin_offline, double alpha,
                           double beta, int64_t objective, int64_t online, int64_t similarity, int64_t reduction,
                           bool detach_weight, bool clamp_weight, bool) {
  const LossParams params = make_params(margin_online, margin_offline, alpha, beta, objective, online, similarity,
                                        reduction, detach_weight, clamp_weight);
  check_embeddings(image, text, hard_image, hard_text, hard_text_image, hard_image_text, params.objective);
  const bool keep_bfloat16 = multiplies_bfloat16(image.size(1), params.similarity, params.online);
  return dispatch_storage(image, keep_bfloat16, [&](auto zero) {
    using S = decltype(zero);
    const Embeddings<S> in(image, text, hard_image, hard_text, hard_text_image, hard_image_text, params.objective,
                           params.similarity);
    const Tensor choice = empty_cpu({2, image.size(0)}, ScalarType::Long);
    const auto anchors =
        score_anchors(in, params.objective, params.similarity, static_cast<int64_t*>(choice.mutable_data_ptr()));
    const auto result =
        losses_of_batch(EmbeddingScores<S>(in.image, in.text, params.similarity), anchors, group_ids, params);
    return Outputs{result.losses, result.text_index, result.image_index, choice, result.saved};
  });
}

}  // namespace
}  // namespace aoq::cpu

STABLE_TORCH_LIBRARY_IMPL(aoq, CPU, m) { m.impl("quintuplet_forward", TORCH_BOX(&aoq::cpu::quintuplet_forward)); }
