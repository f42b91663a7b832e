// A side of a tile from the operator's arguments, with what keeps its memory alive.
#pragma once

#include <optional>

#include "cpu/mining/side.h"
#include "mine_checks.h"

namespace aoq::cpu {

class HeldSide {
 public:
  HeldSide(const Tensor& rows, const std::optional<Tensor>& keys, int64_t first, const std::optional<Tensor>& ids,
           const std::optional<Tensor>& labels, const std::optional<Tensor>& offsets, const std::optional<Tensor>& caps)
      : rows_(torch::stable::contiguous(rows)),
        keys_(dense(keys)),
        ids_(dense(ids)),
        labels_(dense(labels)),
        offsets_(dense(offsets)),
        caps_(dense(caps)) {
    if (offsets_) check_offsets(data<int64_t>(offsets_), rows.size(0), labels_->numel());
    side = {.rows = rows_.const_data_ptr<float>(),
            .count = rows.size(0),
            .width = rows.size(1),
            .first = first,
            .identity = {data<int64_t>(ids_), data<int64_t>(labels_), data<int64_t>(offsets_)},
            .caps = data<float>(caps_),
            .k = keys ? keys->size(1) : 0,
            .known = data<int64_t>(keys_),
            .best = nullptr,
            .bound = {},
            .longest = {},
            .additions = {}};
  }

  MiningSide side;

 private:
  static std::optional<Tensor> dense(const std::optional<Tensor>& tensor) {
    return tensor ? std::optional(torch::stable::contiguous(*tensor)) : std::nullopt;
  }
  template <class T>
  static const T* data(const std::optional<Tensor>& tensor) {
    return tensor ? tensor->const_data_ptr<T>() : nullptr;
  }
  static void check_offsets(const int64_t* offsets, int64_t rows, int64_t labels) {
    bool valid = offsets[0] >= 0 && offsets[rows] <= labels;
    for (int64_t i = 0; i < rows; ++i) valid &= offsets[i] <= offsets[i + 1];
    STD_TORCH_CHECK(valid, "offsets of labels must rise and stay within the labels");
  }

  Tensor rows_;
  std::optional<Tensor> keys_, ids_, labels_, offsets_, caps_;
};

}  // namespace aoq::cpu
