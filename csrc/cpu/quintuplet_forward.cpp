// Forward pass: anchors' own scores, one walk over the tiles of S, then the hinges of every anchor.
#include <tuple>

#include "checks.h"
#include "cpu/anchor_losses.h"

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
      prefetch_row(in.image, i + 1);
      prefetch_row(in.text, i + 1);
      for (const auto* operand : {&in.hard_image, &in.hard_text, &in.hard_text_image, &in.hard_image_text}) {
        if (operand->rows) prefetch_row(*operand->rows, (i + 1) * operand->per_anchor);
      }
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

using Outputs = std::tuple<Tensor, Tensor, Tensor, Tensor, Tensor>;

Outputs quintuplet_forward(Tensor image, Tensor text, std::optional<Tensor> hard_image, std::optional<Tensor> hard_text,
                           std::optional<Tensor> hard_text_image, std::optional<Tensor> hard_image_text,
                           std::optional<Tensor> group_ids, double margin_online, double margin_offline, double alpha,
                           double beta, int64_t objective, int64_t online, int64_t similarity, int64_t reduction,
                           bool detach_weight, bool clamp_weight) {
  const LossParams params = make_params(margin_online, margin_offline, alpha, beta, objective, online, similarity,
                                        reduction, detach_weight, clamp_weight);
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
    const Tensor choice = empty_cpu({2, image.size(0)}, ScalarType::Long);
    const auto anchors = score_anchors(in, params, static_cast<int64_t*>(choice.mutable_data_ptr()));
    const auto result = forward_from(EmbeddingScores<T>(in.image, in.text, kind), anchors, group_ids, params);
    return Outputs{result.loss, result.text_index, result.image_index, choice, result.saved};
  });
}

}  // namespace
}  // namespace aoq::cpu

STABLE_TORCH_LIBRARY_IMPL(aoq, CPU, m) { m.impl("quintuplet_forward", TORCH_BOX(&aoq::cpu::quintuplet_forward)); }
