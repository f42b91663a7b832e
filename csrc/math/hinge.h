// The adaptive quintuplet hinge of one anchor and its derivatives; see aoq_ext/reference.py for the formulae.
#pragma once

#include "math/host_device.h"
#include "params.h"

namespace aoq {

// Not max(): at exactly 0 the hinge is inactive, and NaN must pass.
template <class T>
AOQ_HOST_DEVICE T hinge(T value) {
  return value <= T(0) ? T(0) : value;
}

template <class T>
AOQ_HOST_DEVICE T hinge_slope(T value) {
  return value <= T(0) ? T(0) : T(1);
}

// One direction of the online part: the sum of the hinges over the chosen negatives, and how many of them are active.
template <class T>
struct OnlineHinge {
  T hardest;  // n_i or m_i; meaningless unless exists
  T sum;      // Σ [γ_on + S_ij − p_i]₊ over the chosen negatives
  T active;   // how many of these hinges are active
  bool exists;
};

template <class T>
struct OnlineSlopes {
  T loss;
  T by_positive;
  T by_hardest;  // through the weight and, when the hardest is the only chosen negative, through its hinge
  T by_offline;  // through the weight
  T weight;      // by each active negative
};

// weight(offline, hardest) · sum, with the rule that an inactive hinge is 0 whatever its weight.
template <class T>
AOQ_HOST_DEVICE OnlineSlopes<T> online_term(const OnlineHinge<T>& h, T offline, const LossParams& params) {
  OnlineSlopes<T> out{T(0), T(0), T(0), T(0), T(0)};
  if (!h.exists || h.sum == T(0)) return out;
  T weight = T(1), weight_slope = T(0);
  if (params.objective == Objective::kAdaptiveQuintuplet) {
    const T alpha = T(params.alpha);
    weight = T(params.beta) - (offline - h.hardest) / alpha;
    const bool clamped = params.clamp_weight && weight <= T(0);
    if (clamped) weight = T(0);
    if (!params.detach_weight && !clamped) weight_slope = h.sum / alpha;
  }
  out.loss = weight * h.sum;
  out.by_positive = -weight * h.active;
  out.by_hardest = weight_slope + (params.online == Online::kAll ? T(0) : weight);
  out.by_offline = -weight_slope;
  out.weight = weight;
  return out;
}

// The scores of one anchor: p, a, b, c, d.
template <class T>
struct AnchorScores {
  T positive, hard_text, hard_image, hard_pair, partner;
};

// Writes the SavedRow entries of anchor i and returns L_i. `saved` is (kSavedRows, count).
template <class T>
AOQ_HOST_DEVICE T anchor_loss(const AnchorScores<T>& s, const OnlineHinge<T>& text, const OnlineHinge<T>& image,
                              const LossParams& params, T* saved, int64_t count, int64_t i) {
  const OnlineSlopes<T> n = online_term(text, s.hard_text, params);
  const OnlineSlopes<T> m = online_term(image, s.hard_image, params);
  T loss = n.loss + m.loss;
  T by_positive = n.by_positive + m.by_positive;
  T by_offline[4] = {n.by_offline, m.by_offline, T(0), T(0)};
  const T offline[4] = {s.hard_text, s.hard_image, s.hard_pair, s.partner};
  const int terms = params.has_pairs() ? 4 : params.has_offline() ? 2 : 0;
  for (int t = 0; t < terms; ++t) {
    const T value = T(params.margin_offline) + offline[t] - s.positive;
    loss += hinge(value);
    by_offline[t] += hinge_slope(value);
    by_positive -= hinge_slope(value);
  }
  const T row[kSavedRows] = {s.positive,    by_positive,   n.by_hardest,  m.by_hardest, by_offline[0],
                             by_offline[1], by_offline[2], by_offline[3], n.weight,     m.weight};
  for (int64_t r = 0; r < kSavedRows; ++r) saved[r * count + i] = row[r];
  return loss;
}

}  // namespace aoq
