// How products of queries and fragments make a score: the options of aoq_ext.encoders.CrossAttention. The enums mirror
// the order of FEATURE_NORMS, FOCAL and POOLINGS in aoq_ext/encoders/attention.py.
#pragma once

#include <cstdint>

namespace aoq {

enum class FeatureNorm : int64_t { kSoftmax, kL2, kClippedL2, kL1, kClippedL1, kClipped, kNone };
enum class Focal : int64_t { kOff, kEqual, kProb };
enum class Pooling : int64_t { kLse, kMean, kSum, kMax };

struct AttentionRule {
  FeatureNorm feature_norm;
  float lambda_softmax;
  Focal focal;
  Pooling pooling;
  float lambda_lse;

  constexpr bool clips() const {
    return feature_norm == FeatureNorm::kClippedL2 || feature_norm == FeatureNorm::kClippedL1 ||
           feature_norm == FeatureNorm::kClipped;
  }
};

inline constexpr float kSmallestNorm = 1e-8f;  // as in the released code of SCAN and BFAN
inline constexpr float kClippedSlope = 0.1f;   // of the leaky rectifier of the "clipped" normalisations

}  // namespace aoq
