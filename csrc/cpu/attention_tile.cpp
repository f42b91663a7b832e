#include "cpu/attention_tile.h"

#include <algorithm>
#include <cmath>
#include <limits>

#include "cpu/attention_norm.h"
#include "cpu/attention_pooling.h"

namespace aoq::cpu {
namespace {

constexpr int64_t kRows = 4;  // of a small matrix product, summed together

constexpr int64_t round_up(int64_t count, int64_t step) { return (count + step - 1) / step * step; }

// The lanes of a vector from element `first` on that hold one of `count` elements: 0; the others: −∞.
AOQ_INLINE Floats beyond(int64_t first, int64_t count) {
  if (first + kFloatLanes <= count) return Floats{};
  float lanes[kFloatLanes];
  for (int64_t l = 0; l < kFloatLanes; ++l) lanes[l] = first + l < count ? 0.0f : -kInfinity;
  return load(lanes);
}

// into(r, :) += Σ_k scale(k, r) · from(k, :) for kRows rows r, kVectors vectors of columns at a time.
template <int64_t kVectors, class Scale>
AOQ_INLINE void add_columns(float* into, const float* from, int64_t terms, int64_t stride, Scale scale) {
  Floats sums[kRows][kVectors];
  for (int64_t r = 0; r < kRows; ++r) {
    for (int64_t v = 0; v < kVectors; ++v) sums[r][v] = load(into + r * stride + v * kFloatLanes);
  }
  for (int64_t k = 0; k < terms; ++k) {
    Floats row[kVectors];
    for (int64_t v = 0; v < kVectors; ++v) row[v] = load(from + k * stride + v * kFloatLanes);
    for (int64_t r = 0; r < kRows; ++r) {
      for (int64_t v = 0; v < kVectors; ++v) sums[r][v] += scale(k, r) * row[v];
    }
  }
  for (int64_t r = 0; r < kRows; ++r) {
    for (int64_t v = 0; v < kVectors; ++v) store(into + r * stride + v * kFloatLanes, sums[r][v]);
  }
}

template <class Scale>
AOQ_INLINE void add_products(float* into, const float* from, int64_t terms, int64_t stride, Scale scale) {
  constexpr int64_t kVectors = 3;
  int64_t j = 0;
  for (; j + kVectors * kFloatLanes <= stride; j += kVectors * kFloatLanes) {
    add_columns<kVectors>(into + j, from + j, terms, stride, scale);
  }
  for (; j < stride; j += kFloatLanes) add_columns<1>(into + j, from + j, terms, stride, scale);
}

// One query's attention, of sum 1, all put on the fragments that the rule keeps; on all of them where it keeps none.
AOQ_INLINE void refocus(Focal focal, float* attention, int64_t fragments, int64_t stride) {
  Floats sums{}, weights{}, weighted{};
  for (int64_t j = 0; j < stride; j += kFloatLanes) {
    const Floats a = load(attention + j), confidence = square_root(a);
    sums += a;
    weights += confidence;
    weighted += a * confidence;
  }
  const bool prob = focal == Focal::kProb;
  const float scale = prob ? sum_lanes<float>(weights) : float(fragments);
  const float threshold = sum_lanes<float>(prob ? weighted : sums);
  Floats kept{};
  for (int64_t j = 0; j < stride; j += kFloatLanes) {
    const Floats a = load(attention + j);
    kept += a * scale > threshold ? a : Floats{};
  }
  const float sum = sum_lanes<float>(kept);
  const bool none = !(sum > 0);
  const float total = none ? sum_lanes<float>(sums) : sum;
  for (int64_t j = 0; j < stride; j += kFloatLanes) {
    const Floats a = load(attention + j);
    store(attention + j, (none ? a : (a * scale > threshold ? a : Floats{})) / total);
  }
}

// attention: the softmax over the fragments of lambda · the normalised products.
AOQ_INLINE void attend(const AttentionTile& tile) {
  const int64_t queries = tile.queries, fragments = tile.fragments, stride = tile.stride;
  const AttentionRule rule = tile.rule;
  float* const attention = tile.attention;
  with_norm(rule.feature_norm, [&](auto norm) AOQ_INLINE_LAMBDA {
    for (int64_t j = 0; j < stride; j += kFloatLanes) {
      const FragmentNorm<norm()> fragment(tile, j);
      const Floats padding = beyond(j, fragments);
      for (int64_t q = 0; q < queries; ++q) {
        store(attention + q * stride + j, fragment.normalised(q) * rule.lambda_softmax + padding);
      }
    }
  });
  for (int64_t q = 0; q < queries; ++q) {
    float* const row = attention + q * stride;
    Floats largest = load(row);
    for (int64_t j = kFloatLanes; j < stride; j += kFloatLanes) largest = maximum(largest, load(row + j));
    const float most = max_lanes(largest);
    Floats sums{};
    for (int64_t j = 0; j < stride; j += kFloatLanes) {
      const Floats weight = exponential(load(row + j) - most);
      sums += weight;
      store(row + j, weight);
    }
    const float inverse = 1.0f / sum_lanes<float>(sums);
    for (int64_t j = 0; j < stride; j += kFloatLanes) store(row + j, load(row + j) * inverse);
    if (rule.focal != Focal::kOff) refocus(rule.focal, row, fragments, stride);
  }
}

// relevance: the cosine of each query and what it attends to.
AOQ_INLINE void compare(const AttentionTile& tile) {
  const int64_t queries = tile.queries, fragments = tile.fragments, stride = tile.stride;
  const float smallest_square = tile.smallest_square;
  for (int64_t q = 0; q < queries; q += kRows) {
    float* const spread = tile.spread + q * stride;
    const float* const attention = tile.attention + q * stride;
    std::fill(spread, spread + kRows * stride, 0.0f);
    add_products(spread, tile.gram, fragments, stride,
                 [=](int64_t k, int64_t r) AOQ_INLINE_LAMBDA { return attention[r * stride + k]; });
  }
  const float *const attention = tile.attention, *const products = tile.products, *const spread = tile.spread;
  for (int64_t q = 0; q < queries; ++q) {
    Floats agreements{}, squares{};
    for (int64_t j = q * stride; j < (q + 1) * stride; j += kFloatLanes) {
      const Floats weight = load(attention + j);
      agreements += weight * load(products + j);
      squares += weight * load(spread + j);
    }
    const float agreement = sum_lanes<float>(agreements), square = sum_lanes<float>(squares);
    const bool vanished = square <= smallest_square;
    const float length = vanished ? 0.0f : std::sqrt(square), divisor = length * tile.query_norm[q];
    tile.length[q] = length;
    tile.relevance[q] = vanished ? 0.0f : agreement / (divisor < kSmallestNorm ? kSmallestNorm : divisor);
  }
}

// From ∂loss/∂relevance of a query: by_agreement, by its q·v; grad_norm; in the query's row of `gradient`, that by its
// normalised products; and in its row of `spread`, attention · ∂loss/∂|v|².
AOQ_INLINE void differentiate_relevance(const AttentionTile& tile, int64_t q, float by_relevance) {
  const float length = tile.length[q], divisor = length * tile.query_norm[q];
  const bool vanished = length == 0, divides = divisor >= kSmallestNorm;
  const float by_agreement = vanished ? 0.0f : by_relevance / (divides ? divisor : kSmallestNorm);
  const float by_divisor = divides ? -by_agreement * tile.relevance[q] : 0.0f;
  const float by_square = divides ? by_divisor * tile.query_norm[q] / (2.0f * length) : 0.0f;
  tile.by_agreement[q] = by_agreement;
  tile.grad_norm[q] = by_divisor * length;

  const int64_t stride = tile.stride;
  const float *const attention = tile.attention + q * stride, *const products = tile.products + q * stride;
  float *const spread = tile.spread + q * stride, *const gradient = tile.gradient + q * stride;
  Floats sums{};
  for (int64_t j = 0; j < stride; j += kFloatLanes) {
    const Floats weight = load(attention + j);
    const Floats by_weight = load(products + j) * by_agreement + load(spread + j) * (2.0f * by_square);
    sums += weight * by_weight;
    store(gradient + j, by_weight);
    store(spread + j, weight * by_square);
  }
  // Of the softmax. It is the same where the attention was refocused, as that has sum 1, too.
  const float mean = sum_lanes<float>(sums), lambda = tile.rule.lambda_softmax;
  for (int64_t j = 0; j < stride; j += kFloatLanes) {
    store(gradient + j, load(attention + j) * (load(gradient + j) - mean) * lambda);
  }
}

// The first whole vector from here on: one that is not split over two cache lines.
float* aligned(float* from) {
  const auto past = reinterpret_cast<uintptr_t>(from) % kVectorBytes;
  return past == 0 ? from : from + (kVectorBytes - past) / sizeof(float);
}

}  // namespace

AttentionTile::AttentionTile(const AttentionRule& of, int64_t most_queries, int64_t most_fragments)
    : rule(of), stride(round_up(most_fragments, kFloatLanes)) {
  const int64_t rows = round_up(most_queries, kRows), context_rows = round_up(most_fragments, kRows);
  const int64_t column = round_up(most_queries, kFloatLanes);
  const int64_t size = (2 * context_rows + 4 * rows) * stride + 6 * column;
  storage_.resize(size + kFloatLanes);
  float* next = aligned(storage_.data());
  const auto take = [&](int64_t size) {
    next += size;
    return next - size;
  };
  for (float** matrix : {&gram, &grad_gram}) *matrix = take(context_rows * stride);
  for (float** matrix : {&products, &attention, &spread, &gradient}) *matrix = take(rows * stride);
  for (float** vector : {&query_norm, &relevance, &length, &by_relevance, &by_agreement, &grad_norm})
    *vector = take(column);
}

void AttentionTile::set_context(const float* from, int64_t row_stride, int64_t count) {
  fragments = count;
  const int64_t rows = round_up(count, kRows);
  std::fill(gram, gram + rows * stride, 0.0f);
  std::fill(grad_gram, grad_gram + rows * stride, 0.0f);
  smallest_square = 0;
  for (int64_t c = 0; c < count; ++c) {
    std::copy(from + c * row_stride, from + c * row_stride + count, gram + c * stride);
    const float square = gram[c * stride + c];
    smallest_square = square <= smallest_square ? smallest_square : square;  // NaN stays
  }
  smallest_square *= std::numeric_limits<float>::epsilon();
}

void AttentionTile::set_queries(int64_t count) {
  queries = count;
  const int64_t rows = round_up(count, kRows);
  // Rows that fill up a product, and what lies beyond the last fragment.
  for (float* matrix : {products, attention, spread}) {
    std::fill(matrix + count * stride, matrix + rows * stride, 0.0f);
  }
}

AOQ_SIMD float attention_score(AttentionTile& tile) {
  attend(tile);
  compare(tile);
  return pool_relevances(tile.rule, tile.relevance, tile.queries, nullptr);
}

AOQ_SIMD void attention_gradient(AttentionTile& tile, float grad_score) {
  attend(tile);
  compare(tile);
  pool_relevances(tile.rule, tile.relevance, tile.queries, tile.by_relevance);
  for (int64_t q = 0; q < tile.queries; ++q) differentiate_relevance(tile, q, grad_score * tile.by_relevance[q]);

  const int64_t queries = tile.queries, stride = tile.stride;
  const float *const attention = tile.attention, *const weighted = tile.spread, *const by_agreement = tile.by_agreement;
  for (int64_t c = 0; c < tile.fragments; c += kRows) {
    add_products(tile.grad_gram + c * stride, attention, queries, stride,
                 [=](int64_t k, int64_t r) AOQ_INLINE_LAMBDA { return weighted[k * stride + c + r]; });
  }
  float* const gradient = tile.gradient;
  with_norm(tile.rule.feature_norm, [&](auto norm) AOQ_INLINE_LAMBDA {
    for (int64_t j = 0; j < stride; j += kFloatLanes) {
      FragmentNorm<norm()>(tile, j).differentiate(
          [&](int64_t q) AOQ_INLINE_LAMBDA { return load(gradient + q * stride + j); },
          [&](int64_t q, const Floats& by_product) AOQ_INLINE_LAMBDA {
            store(gradient + q * stride + j, by_product + load(attention + q * stride + j) * by_agreement[q]);
          });
    }
  });
}

}  // namespace aoq::cpu
