// Online::kAll: the derivative of the loss by every score, a row at a time.
#pragma once

#include <vector>

#include "cpu/loss/groups.h"
#include "math/hinge.h"

namespace aoq::cpu {

template <class T>
class AllNegatives {
 public:
  // saved is (kSavedRows, C); grad (C,) is ∂loss/∂L_i.
  AllNegatives(const T* saved, const std::vector<T>& grad, std::vector<Key<T>> groups, T margin)
      : positive_(saved + kPositive * grad.size()), groups_(std::move(groups)), margin_(margin) {
    by_text_.resize(grad.size());
    by_image_.resize(grad.size());
    for (size_t i = 0; i < grad.size(); ++i) {
      by_text_[i] = grad[i] * saved[kTextWeight * grad.size() + i];
      by_image_[i] = grad[i] * saved[kImageWeight * grad.size() + i];
    }
  }

  // slopes[c] = ∂loss/∂S_ij through the hinges, i and j = first + c anchors; scores and slopes may be the same row.
  void row(int64_t i, int64_t first, int64_t columns, const T* scores, T* slopes) const {
    for (int64_t c = 0; c < columns; ++c) {
      const int64_t j = first + c;
      const T value = margin_ + scores[c];
      const T by_text = value - positive_[i] <= T(0) ? T(0) : by_text_[i];
      const T by_image = value - positive_[j] <= T(0) ? T(0) : by_image_[j];
      slopes[c] = by_text + by_image;
    }
    if (!groups_.empty()) {
      for (int64_t c = 0; c < columns; ++c) slopes[c] = groups_[first + c] == groups_[i] ? T(0) : slopes[c];
    }
    if (i >= first && i < first + columns) slopes[i - first] = T(0);
  }

 private:
  const T* positive_;
  std::vector<Key<T>> groups_;
  std::vector<T> by_text_, by_image_;
  T margin_;
};

}  // namespace aoq::cpu
