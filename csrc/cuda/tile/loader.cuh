// Brings the rows of two operands to shared memory, slice by slice, by asynchronous copies.
#pragma once

#include "cuda/device/element.cuh"
#include "cuda/loss/forward/forward_params.h"
#include "cuda/tile/config.cuh"

namespace aoq::device {

AOQ_DEVICE int64_t row_of(const RowMap& map, int64_t entry) {
  if (map.choice) return entry * map.candidates + map.choice[entry];
  return map.of_anchor ? entry / map.candidates : entry;
}

template <class Config, class Element>
class SliceLoader {
 public:
  // The tile begins at entry `row` of the left operand and at entry `column` of the right one.
  AOQ_DEVICE SliceLoader(const Operand<Element>& left, int64_t row, const Operand<Element>& right, int64_t column,
                         int64_t width)
      : remaining_(width * int64_t(sizeof(Element)) - piece() * kPieceBytes) {
#pragma unroll
    for (int i = 0; i < kLeft; ++i) set_source(i, left, row + first_row() + i * kRowStep);
#pragma unroll
    for (int i = 0; i < kRight; ++i) set_source(kLeft + i, right, column + first_row() + i * kRowStep);
  }

  // Asks for the next slice. Beyond the end of a row and of an operand it is filled with zeros.
  AOQ_DEVICE void issue(char* stage) {
    const int place = (piece() ^ swizzle<Config>(first_row())) * kPieceBytes;
#pragma unroll
    for (int i = 0; i < kLeft + kRight; ++i) {
      const int row = first_row() + i * kRowStep;  // the right operand's rows follow the left one's
      const bool inside = remaining_ > 0 && (exists_ >> i & 1);
      copy_async_16(stage + row * Config::kSliceBytes + place, source_[i], inside ? kPieceBytes : 0);
      source_[i] += Config::kSliceBytes;
    }
    remaining_ -= Config::kSliceBytes;
  }

 private:
  static constexpr int kRowStep = Config::kThreads / Config::kSlicePieces;
  static constexpr int kLeft = Config::kRows / kRowStep, kRight = Config::kColumns / kRowStep;

  AOQ_DEVICE static int piece() { return thread_index() % Config::kSlicePieces; }
  AOQ_DEVICE static int first_row() { return thread_index() / Config::kSlicePieces; }

  AOQ_DEVICE void set_source(int i, const Operand<Element>& operand, int64_t entry) {
    const bool exists = entry < operand.count;
    const Element* row = exists ? operand.data + row_of(operand.map, entry) * operand.stride : operand.data;
    source_[i] = reinterpret_cast<const char*>(row) + piece() * kPieceBytes;
    exists_ |= unsigned(exists) << i;
  }

  const char* source_[kLeft + kRight];
  int64_t remaining_;  // bytes of a row from this thread's piece of the next slice on
  unsigned exists_ = 0;
};

}  // namespace aoq::device
