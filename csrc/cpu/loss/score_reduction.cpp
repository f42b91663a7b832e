#include "cpu/loss/score_reduction.h"

#include <algorithm>

#include "cpu/product/simd.h"
#include "math/hinge.h"

namespace aoq::cpu {
namespace {

template <class T>
AOQ_INLINE void keys_of_row(const ScoreBlock<T>& block, const T* scores, int64_t anchor, Key<T>* keys) {
  for (int64_t c = 0; c < block.columns; ++c) keys[c] = order_key(scores[c]);
  if (block.group) {
    const Key<T> own = block.group[anchor];
    const Key<T>* group = block.group + block.first_column;
    for (int64_t c = 0; c < block.columns; ++c) keys[c] = group[c] == own ? kNoKey<T> : keys[c];
  }
  const int64_t self = anchor - block.first_column;
  if (self >= 0 && self < block.columns) keys[self] = kNoKey<T>;
}

template <class T>
AOQ_INLINE void max_of_row(const Key<T>* keys, int64_t columns, Key<T> to_beat, int64_t first_column,
                           RowPartial<T>& out) {
  Key<T> best = kNoKey<T>;
  for (int64_t c = 0; c < columns; ++c) best = std::max(best, keys[c]);
  out.key = best;
  out.index = -1;
  if (best <= to_beat) return;
  Key<T> first = Key<T>(columns);
  for (Key<T> c = 0; c < Key<T>(columns); ++c) first = std::min(first, keys[c] == best ? c : Key<T>(columns));
  out.index = Key<T>(first_column) + first;
}

template <class T>
AOQ_INLINE void max_of_columns(const Key<T>* keys, int64_t columns, int64_t anchor, Key<T>* best, Key<T>* index) {
  for (int64_t c = 0; c < columns; ++c) {
    const bool take = keys[c] > best[c];
    best[c] = take ? keys[c] : best[c];
    index[c] = take ? Key<T>(anchor) : index[c];
  }
}

template <class T>
AOQ_INLINE T sum_row(const T* values, int64_t columns) {
  typename Vector<T>::Type sums = {};
  int64_t c = 0;
  for (; c + Vector<T>::kLanes <= columns; c += Vector<T>::kLanes) sums += load(values + c);
  T sum = sum_lanes<T>(sums);
  for (; c < columns; ++c) sum += values[c];
  return sum;
}

template <class T>
AOQ_INLINE void add_hinges(const ScoreBlock<T>& block, const T* scores, const Key<T>* keys, int64_t anchor,
                           RowPartial<T>& out, T* column_sum, T* column_active) {
  alignas(kVectorBytes) T value[kBlockColumns], active[kBlockColumns];
  const T own = block.positive[anchor];
  const T* positive = block.positive + block.first_column;
  for (int64_t c = 0; c < block.columns; ++c) {
    const T margin = block.margin + scores[c] - own;
    value[c] = keys[c] == kNoKey<T> ? T(0) : hinge(margin);
    active[c] = keys[c] == kNoKey<T> ? T(0) : hinge_slope(margin);
  }
  out.sum = sum_row(value, block.columns);
  out.active = sum_row(active, block.columns);
  for (int64_t c = 0; c < block.columns; ++c) {
    const T margin = block.margin + scores[c] - positive[c];
    column_sum[c] += keys[c] == kNoKey<T> ? T(0) : hinge(margin);
    column_active[c] += keys[c] == kNoKey<T> ? T(0) : hinge_slope(margin);
  }
}

template <class T, Online kOnline>
AOQ_INLINE void reduce(const ScoreBlock<T>& block) {
  alignas(kVectorBytes) Key<T> keys[kBlockColumns], below[kBlockColumns];
  Key<T>* column_key = block.by_column->key.data() + block.first_column;
  Key<T>* column_index = block.by_column->index.data() + block.first_column;
  const T* positive = block.positive + block.first_column;
  // Column sums of a few rows, then of this block, then of all: short sums round less.
  constexpr int64_t kFewRows = 32;
  alignas(kVectorBytes) T few[kBlockColumns] = {}, sum[kBlockColumns] = {}, active[kBlockColumns] = {};
  for (int64_t r = 0; r < block.rows; ++r) {
    const int64_t row = block.first_row + r, anchor = block.first_anchor + row;
    const T* scores = block.scores + r * block.stride;
    RowPartial<T>& out = block.partial[r * block.partial_stride];
    keys_of_row(block, scores, anchor, keys);
    if constexpr (kOnline == Online::kSemihard) {  // !(S ≥ p), so that NaN stays selectable
      const T own = block.positive[anchor];
      for (int64_t c = 0; c < block.columns; ++c) below[c] = scores[c] >= own ? kNoKey<T> : keys[c];
      max_of_row(below, block.columns, block.row_key[row], block.first_column, out);
      for (int64_t c = 0; c < block.columns; ++c) below[c] = scores[c] >= positive[c] ? kNoKey<T> : keys[c];
      max_of_columns<T>(below, block.columns, anchor, column_key, column_index);
    } else {
      max_of_row(keys, block.columns, block.row_key[row], block.first_column, out);
      max_of_columns<T>(keys, block.columns, anchor, column_key, column_index);
    }
    if constexpr (kOnline == Online::kAll) {
      add_hinges(block, scores, keys, anchor, out, few, active);
      if ((r + 1) % kFewRows == 0 || r + 1 == block.rows) {
        for (int64_t c = 0; c < block.columns; ++c) sum[c] += few[c], few[c] = T(0);
      }
    }
  }
  if constexpr (kOnline == Online::kAll) {
    for (int64_t c = 0; c < block.columns; ++c) {
      block.by_column->sum[block.first_column + c] += sum[c];
      block.by_column->active[block.first_column + c] += active[c];
    }
  }
}

template <class T>
AOQ_INLINE void reduce_any(const ScoreBlock<T>& block, Online online) {
  switch (online) {
    case Online::kHardest: return reduce<T, Online::kHardest>(block);
    case Online::kSemihard: return reduce<T, Online::kSemihard>(block);
    case Online::kAll: return reduce<T, Online::kAll>(block);
  }
}

}  // namespace

AOQ_SIMD void reduce_block(const ScoreBlock<float>& block, Online online) { reduce_any(block, online); }
AOQ_SIMD void reduce_block(const ScoreBlock<double>& block, Online online) { reduce_any(block, online); }

}  // namespace aoq::cpu
