// Online::kAll: ∂loss/∂S_ij through the hinges of all negatives, as csrc/cpu/loss/all_negatives.h defines it.
#pragma once

#include "cuda/loss/backward/choosers.cuh"

namespace aoq::device {

// What the slope by S_ij needs of one of its two anchors.
template <class T>
struct HingeSide {
  T positive, slope;
  int64_t group;

  AOQ_DEVICE T slope_at(T score, T margin) const { return margin + score - positive <= T(0) ? T(0) : slope; }
};

// The weight is kTextWeight for the anchor of a row, kImageWeight for that of a column.
template <class T>
AOQ_DEVICE HingeSide<T> hinge_side(const LossSlopes<T>& slopes, SavedRow weight, const int64_t* group, int64_t anchor) {
  return {slopes.saved[kPositive * slopes.anchors + anchor], loss_slope(slopes, weight, anchor),
          group ? group[anchor] : anchor};
}

// Without groups, the group of an anchor is itself.
template <class T>
AOQ_DEVICE T all_slope(T score, T margin, const HingeSide<T>& row, const HingeSide<T>& column) {
  return row.group == column.group ? T(0) : row.slope_at(score, margin) + column.slope_at(score, margin);
}

}  // namespace aoq::device
