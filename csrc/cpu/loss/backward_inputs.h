// What both backward passes read: the gradient of each anchor's loss, and indices that forward saved.
#pragma once

#include <algorithm>
#include <vector>

#include "cpu/product/operands.h"
#include "loss_checks.h"

namespace aoq::cpu {

// The anchors that chose each of the rows first, …, first + rows − 1, in ascending order: a counting sort of the argmax
// map.
struct Choosers {
  std::vector<int64_t> start;  // (rows + 1,)
  std::vector<int64_t> anchor;

  Choosers(const int64_t* chosen, int64_t anchors, int64_t first, int64_t rows) : start(rows + 1, 0) {
    const auto is_row = [&](int64_t i) { return chosen[i] >= first && chosen[i] < first + rows; };
    for (int64_t i = 0; i < anchors; ++i) {
      if (is_row(i)) ++start[chosen[i] - first + 1];
    }
    for (int64_t r = 0; r < rows; ++r) start[r + 1] += start[r];
    anchor.resize(start[rows]);
    std::vector<int64_t> next(start.begin(), start.end() - 1);
    for (int64_t i = 0; i < anchors; ++i) {
      if (is_row(i)) anchor[next[chosen[i] - first]++] = i;
    }
  }

  template <class Visit>
  void for_each(int64_t row, Visit visit) const {
    for (int64_t n = start[row]; n < start[row + 1]; ++n) visit(anchor[n]);
  }
};

// ∂loss/∂L_i from the gradient of the reduced loss.
template <class T>
std::vector<T> anchor_grads(const Tensor& grad_loss, Reduction reduction, int64_t count) {
  const Tensor values = as_contiguous<T>(grad_loss);
  STD_TORCH_CHECK(values.numel() == (reduction == Reduction::kNone ? count : 1), "grad_loss has the wrong shape");
  const T* grad = static_cast<const T*>(values.const_data_ptr());
  if (reduction == Reduction::kNone) return {grad, grad + count};
  return std::vector<T>(count, reduction == Reduction::kMean ? *grad / T(count) : *grad);
}

// The values of an index tensor of forward, each from −1 to limit − 1.
inline const int64_t* checked_indices(const Tensor& index, int64_t count, int64_t limit, const char* name) {
  STD_TORCH_CHECK(index.numel() == count && index.scalar_type() == ScalarType::Long && index.is_contiguous(), name,
                  " must be what forward returned");
  const auto* values = static_cast<const int64_t*>(index.const_data_ptr());
  STD_TORCH_CHECK(std::all_of(values, values + count, [&](int64_t i) { return i >= -1 && i < limit; }), name,
                  " is out of range");
  return values;
}

// The values of `saved`, (kSavedRows, B).
template <class T>
const T* checked_saved(const Tensor& saved, int64_t count) {
  STD_TORCH_CHECK(saved.numel() == kSavedRows * count && saved.scalar_type() == kScalarType<T> && saved.is_contiguous(),
                  "saved must be what forward returned");
  return static_cast<const T*>(saved.const_data_ptr());
}

}  // namespace aoq::cpu
