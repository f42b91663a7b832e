// Inputs as the kernels read them: contiguous rows in the compute type, of unit length for cosine similarity.
#pragma once

#include <cmath>
#include <optional>
#include <vector>

#include "cpu/product/vector.h"
#include "params.h"

namespace aoq::cpu {

inline constexpr int64_t kRowGrain = 64;  // rows one thread takes at least

template <class S>
struct Rows {
  Tensor tensor;  // what the rows are: (B, D) or (B, K, D)
  S* data;
  int64_t count, width;
  std::vector<Compute<S>> norm;  // (count,) lengths before normalisation, for cosine alone

  S* row(int64_t i) const { return data + i * width; }
};

template <class S>
Rows<S> view_rows(const Tensor& tensor) {  // (count, width), contiguous
  return {tensor, static_cast<S*>(tensor.mutable_data_ptr()), tensor.size(0), tensor.size(1), {}};
}

// The values in storage type S, contiguous: the input itself where it is that already.
template <class S>
Tensor as_contiguous(const Tensor& input) {
  if (input.scalar_type() == kStorageType<S> && input.is_contiguous()) return input;
  return torch::stable::contiguous(torch::stable::to(input, kStorageType<S>));
}

// Rows become unit rows; a zero row stays zero.
template <class T>
void normalise(Rows<T>& rows) {
  rows.norm.resize(rows.count);
  torch::stable::parallel_for(0, rows.count, kRowGrain, [&](int64_t begin, int64_t end) {
    for (int64_t i = begin; i < end; ++i) {
      T* row = rows.row(i);
      const T norm = std::sqrt(dot(row, row, rows.width));
      rows.norm[i] = norm;
      for (int64_t d = 0; d < rows.width; ++d) row[d] = norm == T(0) ? T(0) : row[d] / norm;
    }
  });
}

// (…, D) of any float dtype and strides, as rows of D. Bfloat16 is for dot products alone.
template <class S>
Rows<S> load_rows(const Tensor& input, Similarity similarity) {
  const int64_t width = input.size(input.dim() - 1);
  const int64_t count = input.size(0) * (input.dim() == 3 ? input.size(1) : 1);
  Tensor values = as_contiguous<S>(input);
  if (similarity == Similarity::kCosine) values = torch::stable::clone(values);
  Rows<S> rows{values, static_cast<S*>(values.data_ptr()), count, width, {}};
  if constexpr (std::is_same_v<S, Compute<S>>) {
    if (similarity == Similarity::kCosine) normalise(rows);
  }
  return rows;
}

// Asks for row i ahead of its use. A row often fills a page, at whose end the hardware's own prefetching stops.
template <class S>
void prefetch_row(const Rows<S>& rows, int64_t i) {
  constexpr int64_t kLine = 64 / sizeof(S);
  if (i >= rows.count) return;
  for (int64_t d = 0; d < rows.width; d += kLine) __builtin_prefetch(rows.row(i) + d);
}

// An offline negative with its K candidates an anchor; empty when the objective has none.
template <class S>
struct Candidates {
  std::optional<Rows<S>> rows;  // (B·K, D)
  int64_t per_anchor = 1;

  const S* at(int64_t anchor, int64_t k) const { return rows->row(anchor * per_anchor + k); }
};

template <class S>
Candidates<S> load_candidates(const std::optional<Tensor>& input, Similarity similarity) {
  if (!input) return {};
  return {load_rows<S>(*input, similarity), input->dim() == 3 ? input->size(1) : 1};
}

// sim(x, y) of an image and a text row.
template <class S>
Compute<S> similarity_of(Similarity similarity, const S* x, const S* y, int64_t width) {
  return similarity == Similarity::kOrder ? -order_distance(x, y, width) : dot(x, y, width);
}

}  // namespace aoq::cpu
