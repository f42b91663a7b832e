// The scores that belong to one anchor alone: p, a, b, c, d, and which offline candidates they came from.
#pragma once

#include <vector>

#include "cpu/product/operands.h"
#include "loss_checks.h"
#include "math/hinge.h"
#include "math/order.h"

namespace aoq::cpu {

template <class S>
struct Embeddings {
  Rows<S> image, text;                                                    // (B, D)
  Candidates<S> hard_image, hard_text, hard_text_image, hard_image_text;  // (B·K, D)

  Embeddings(const EmbeddingOperands& given, Similarity kind)
      : image(load_rows<S>(*given[kImageRow], kind)),
        text(load_rows<S>(*given[kTextRow], kind)),
        hard_image(load_candidates<S>(given[kHardImage], kind)),
        hard_text(load_candidates<S>(given[kHardText], kind)),
        hard_text_image(load_candidates<S>(given[kHardTextImage], kind)),
        hard_image_text(load_candidates<S>(given[kHardImageText], kind)) {}
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
template <class S>
std::vector<AnchorScores<Compute<S>>> score_anchors(const Embeddings<S>& in, const LossParams& params,
                                                    int64_t* choice) {
  using T = Compute<S>;
  const int64_t count = in.image.count, width = in.image.width;
  const auto score = [&](const S* x, const S* y) { return similarity_of(params.similarity, x, y, width); };
  std::vector<AnchorScores<T>> scores(count);
  torch::stable::parallel_for(0, count, kRowGrain, [&](int64_t begin, int64_t end) {
    for (int64_t i = begin; i < end; ++i) {
      const S *x = in.image.row(i), *y = in.text.row(i);
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

}  // namespace aoq::cpu
