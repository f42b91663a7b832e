// The kernels of a given score matrix: what they read and write, and the functions that launch them. Free of torch and
// of device code.
#pragma once

#include "cuda/loss/backward/backward_params.h"

namespace aoq::device {

// p, a, b, c and d of the anchors in the type they are computed in.
template <class Element>
struct ScoreAnchors {
  const Element* diagonal;  // S; p of anchor i is diagonal[i · (stride + 1)]
  int64_t stride;
  const Element* offline[4];  // (count,) each, a, b, c, d; null where the objective has none
  int64_t count;
  Compute<Element>* scores;  // (5, count)
};

// S (rows, columns) as the left operand of a product whose right operand has no rows of its own.
template <class Element>
Product<Element> given_scores(const Element* scores, int64_t stride, int64_t rows, int64_t columns) {
  return {{scores, stride, rows, nullptr, {}}, {nullptr, 0, columns, nullptr, {}}, 0};
}

// As HardestParams, with S given; not for float64.
template <class Element>
struct ScoreHardestParams {
  Product<Element> all;  // of given_scores
  NegativeRules<float> rules;
  uint64_t *row_key, *column_key;
  ScoreAnchors<Element> anchors;  // count 0 where that is done already
  bool finishes;
  FinishParams<PackedNegatives> finish;
};

// The rows of S are those of anchors first, …, first + rows − 1.
template <class Element>
struct ScoreBackwardParams {
  const Element* scores;  // (rows, C), rows without gaps; read for Online::kAll alone
  int64_t rows, first;
  const int64_t *text_index, *image_index;  // (C,)
  LossSlopes<Compute<Element>> slopes;
  const int64_t* group;  // (C,) or null
  Compute<Element> margin;
  Element* grad;             // (rows, C), or null where not needed
  Element* offline_grad[4];  // (rows,), likewise
};

template <class Element>
void launch_score_anchors(const ScoreAnchors<Element>& params, cuda::Stream stream);
template <class Element>
void launch_score_hardest(const ScoreHardestParams<Element>& params, cuda::Stream stream);
template <class Element>
void launch_score_walk(const WalkParams<Element>& params, cuda::Stream stream);  // params.all of given_scores
template <class Element>
void launch_score_backward(Online online, const ScoreBackwardParams<Element>& params, cuda::Stream stream);

}  // namespace aoq::device
