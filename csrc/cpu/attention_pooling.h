// How the relevances of a pair's queries make its score, and what each contributes to it.
#pragma once

#include <algorithm>

#include "cpu/attention_tile.h"
#include "cpu/vector_math.h"

namespace aoq::cpu {

// relevance: (Q,), readable up to a whole vector. by_relevance: (Q,), written likewise: ∂score/∂relevance, if wanted.
AOQ_INLINE float pool_relevances(const AttentionRule& rule, const float* relevance, int64_t queries,
                                 float* by_relevance) {
  const float count = float(queries);
  switch (rule.pooling) {
    case Pooling::kMean:
    case Pooling::kSum: {
      const float each = rule.pooling == Pooling::kMean ? 1.0f / count : 1.0f;
      float sum = 0;
      for (int64_t q = 0; q < queries; ++q) sum += relevance[q];
      if (by_relevance) std::fill(by_relevance, by_relevance + queries, each);
      return rule.pooling == Pooling::kMean ? sum / count : sum;
    }
    case Pooling::kMax: {
      float largest = relevance[0];
      for (int64_t q = 1; q < queries; ++q) largest = relevance[q] <= largest ? largest : relevance[q];  // NaN stays
      if (by_relevance) {  // of equal ones, each has its share
        const auto ties = float(std::count(relevance, relevance + queries, largest));
        for (int64_t q = 0; q < queries; ++q) by_relevance[q] = relevance[q] == largest ? 1.0f / ties : 0.0f;
      }
      return largest;
    }
    case Pooling::kLse: {
      const float largest = *std::max_element(relevance, relevance + queries);
      float sum = 0;
      for (int64_t first = 0; first < queries; first += kFloatLanes) {
        float weights[kFloatLanes];
        store(weights, exponential((load(relevance + first) - largest) * rule.lambda_lse));
        const int64_t filled = std::min(kFloatLanes, queries - first);
        for (int64_t l = 0; l < filled; ++l) sum += weights[l];
        if (by_relevance) std::copy(weights, weights + filled, by_relevance + first);
      }
      for (int64_t q = 0; by_relevance && q < queries; ++q) by_relevance[q] /= sum;
      return largest + std::log(sum) / rule.lambda_lse;
    }
  }
  return 0.0f;
}

}  // namespace aoq::cpu
