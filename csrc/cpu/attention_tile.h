// The score of one pair: Q queries that attend to C fragments, from their products alone. See
// aoq_ext/encoders/attention.py for the mathematics.
#pragma once

#include <cstdint>
#include <vector>

#include "attention_rule.h"

namespace aoq::cpu {

// What one thread works on, in rows of `stride` floats that are 0 beyond their last element. Small enough for the
// first-level cache at the sizes of SCAN: 36 regions and some 12 words.
class AttentionTile {
 public:
  AttentionTile(const AttentionRule& rule, int64_t most_queries, int64_t most_fragments);

  // The context that the tile's queries attend to: gram (C, C), rows `row_stride` apart, and its gradient begun.
  void set_context(const float* gram, int64_t row_stride, int64_t fragments);
  void set_queries(int64_t count);

  const AttentionRule rule;
  const int64_t stride;
  int64_t queries = 0, fragments = 0;
  float smallest_square = 0;  // |v|² of up to this counts as 0: what rounding leaves of a context that cancels

  float *gram, *grad_gram;                          // (C, stride)
  float *products, *attention, *spread, *gradient;  // (Q, stride); spread: attention · gram
  float *query_norm, *relevance, *length;           // (Q,); length: |v|, 0 where it vanished
  float *by_relevance, *by_agreement, *grad_norm;   // (Q,)

 private:
  std::vector<float> storage_;
};

// Of the tile's products and query_norm.
float attention_score(AttentionTile& tile);

// The same, and from ∂loss/∂score the tile's gradient (of the products) and grad_norm; adds to grad_gram.
void attention_gradient(AttentionTile& tile, float grad_score);

}  // namespace aoq::cpu
