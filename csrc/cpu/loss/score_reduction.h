// The epilogue of a tile of scores: reduces it to what the online terms need of its rows and of its columns.
#pragma once

#include <cstdint>
#include <vector>

#include "math/order.h"
#include "params.h"

namespace aoq::cpu {

// Columns one call reduces: the unit of parallel work, and of the order in which row sums are folded.
inline constexpr int64_t kBlockColumns = 256;

// What the online terms need of each anchor: (count,) each.
template <class T>
struct OnlineState {
  std::vector<Key<T>> key;    // of the hardest negative so far, kNoKey at first
  std::vector<Key<T>> index;  // of that negative
  std::vector<T> sum;         // Online::kAll: sum of the hinges
  std::vector<T> active;      // Online::kAll: number of active hinges

  explicit OnlineState(int64_t count)
      : key(count, kNoKey<T>), index(count, -1), sum(count, T(0)), active(count, T(0)) {}
};

// One row of one block, before the blocks are folded in column order.
template <class T>
struct RowPartial {
  Key<T> key, index;
  T sum, active;
};

template <class T>
struct ScoreBlock {
  const T* scores;  // (rows, columns), row stride `stride`
  int64_t stride, rows, columns;
  int64_t first_row, first_column;  // in S
  int64_t first_anchor;             // the pair of row r of S is column first_anchor + r
  const T* positive;                // (C,) p
  const Key<T>* group;              // (C,), or null
  T margin;
  const Key<T>* row_key;   // (R,) best of the earlier tiles: an index is looked for only above it
  RowPartial<T>* partial;  // (rows, partial_stride), this block's column of it
  int64_t partial_stride;
  OnlineState<T>* by_column;  // (B,) updated in place
};

// Rows are visited in order and ties keep the earlier one, so the lowest index wins.
void reduce_block(const ScoreBlock<float>& block, Online online);
void reduce_block(const ScoreBlock<double>& block, Online online);

}  // namespace aoq::cpu
