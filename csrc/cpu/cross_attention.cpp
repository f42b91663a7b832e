// The scores of many pairs, from the products of queries and fragments; and their gradient. Each thread takes whole
// contexts, so that sums over a context's pairs have one order.
#include <algorithm>
#include <tuple>
#include <vector>

#include "checks.h"
#include "cpu/attention_tile.h"
#include "cpu/product/subnormals.h"

namespace aoq::cpu {
namespace {

void check_lengths(const std::optional<Tensor>& lengths, const std::vector<int64_t>& sizes, int64_t most,
                   const char* name) {
  if (!lengths) return;
  STD_TORCH_CHECK(lengths->scalar_type() == ScalarType::Long && lengths->is_contiguous(), name,
                  " must be contiguous int64");
  STD_TORCH_CHECK(lengths->dim() == int64_t(sizes.size()), name, " must have ", sizes.size(), " dimensions");
  for (size_t d = 0; d < sizes.size(); ++d) {
    STD_TORCH_CHECK(lengths->size(d) == sizes[d], name, " must have size ", sizes[d], " in dimension ", d);
  }
  const auto* values = static_cast<const int64_t*>(lengths->const_data_ptr());
  STD_TORCH_CHECK(
      std::all_of(values, values + lengths->numel(), [&](int64_t value) { return value >= 1 && value <= most; }), name,
      " must lie between 1 and ", most);
}

// G contexts of C fragments each, K sets of Q queries for each context.
class Pairs {
 public:
  Pairs(const Tensor& products, const Tensor& gram, const Tensor& query_norm,
        const std::optional<Tensor>& query_lengths, const std::optional<Tensor>& context_lengths)
      : contexts(products.dim() == 4 ? products.size(0) : 0) {
    STD_TORCH_CHECK(products.dim() == 4, "products must have shape (G, K, Q, C), got ", products.dim(), " dimensions");
    sets = products.size(1), queries = products.size(2), fragments = products.size(3);
    for (const auto& [tensor, name] :
         {std::pair(&products, "products"), std::pair(&gram, "gram"), std::pair(&query_norm, "query_norm")}) {
      STD_TORCH_CHECK(tensor->scalar_type() == ScalarType::Float, name, " must be float32");
    }
    STD_TORCH_CHECK(queries > 0 && fragments > 0, "products must have queries and fragments");
    STD_TORCH_CHECK(
        gram.dim() == 3 && gram.size(0) == contexts && gram.size(1) == fragments && gram.size(2) == fragments,
        "gram must have shape (", contexts, ", ", fragments, ", ", fragments, ")");
    STD_TORCH_CHECK(query_norm.dim() == 3 && (query_norm.size(0) == contexts || query_norm.size(0) == 1) &&
                        query_norm.size(1) == sets && query_norm.size(2) == queries,
                    "query_norm must have shape (", contexts, " or 1, ", sets, ", ", queries, ")");
    own_queries = query_norm.size(0) == contexts;
    check_lengths(query_lengths, {query_norm.size(0), sets}, queries, "query_lengths");
    check_lengths(context_lengths, {contexts}, fragments, "context_lengths");
    const auto pointer = [](const std::optional<Tensor>& lengths) {
      return lengths ? static_cast<const int64_t*>(lengths->const_data_ptr()) : nullptr;
    };
    query_lengths_ = pointer(query_lengths), context_lengths_ = pointer(context_lengths);
    products_ = static_cast<const float*>(products.const_data_ptr());
    gram_ = torch::stable::contiguous(gram), norm_ = torch::stable::contiguous(query_norm);
    for (int64_t d = 0; d < 4; ++d) strides[d] = products.stride(d);
  }

  int64_t contexts, sets, queries, fragments, strides[4];
  bool own_queries;  // of each context; or all contexts have the same

  void load_context(int64_t context, AttentionTile& tile) const {
    const float* gram = static_cast<const float*>(gram_.const_data_ptr()) + context * fragments * fragments;
    tile.set_context(gram, fragments, context_lengths_ ? context_lengths_[context] : fragments);
  }

  void load_set(int64_t context, int64_t set, AttentionTile& tile) const {
    const int64_t row = (own_queries ? context * sets : 0) + set;
    tile.set_queries(query_lengths_ ? query_lengths_[row] : queries);
    const float* norm = static_cast<const float*>(norm_.const_data_ptr()) + row * queries;
    std::copy(norm, norm + tile.queries, tile.query_norm);
    const float* from = products_ + context * strides[0] + set * strides[1];
    for (int64_t q = 0; q < tile.queries; ++q) {
      const float* row = from + q * strides[2];
      float* into = tile.products + q * tile.stride;
      if (strides[3] == 1) {
        std::copy(row, row + tile.fragments, into);
      } else {
        for (int64_t c = 0; c < tile.fragments; ++c) into[c] = row[c * strides[3]];
      }
      std::fill(into + tile.fragments, into + tile.stride, 0.0f);
    }
  }

 private:
  const float* products_;
  Tensor gram_, norm_;
  const int64_t *query_lengths_ = nullptr, *context_lengths_ = nullptr;
};

// Where gradients go; 0 where there is padding.
class TileWriter {
 public:
  TileWriter(const Tensor& products, const Tensor& gram, const Tensor& norm)
      : products_(static_cast<float*>(products.mutable_data_ptr())),
        gram_(static_cast<float*>(gram.mutable_data_ptr())),
        norm_(static_cast<float*>(norm.mutable_data_ptr())),
        sets_(products.size(1)),
        queries_(products.size(2)),
        fragments_(products.size(3)) {
    for (int64_t d = 0; d < 4; ++d) strides_[d] = products.stride(d);
  }

  void write_set(const AttentionTile& tile, int64_t context, int64_t set) const {
    float* products = products_ + context * strides_[0] + set * strides_[1];
    float* norm = norm_ + (context * sets_ + set) * queries_;
    std::copy(tile.grad_norm, tile.grad_norm + tile.queries, norm);
    std::fill(norm + tile.queries, norm + queries_, 0.0f);
    for (int64_t q = 0; q < queries_; ++q) {
      const float* row = tile.gradient + q * tile.stride;
      float* into = products + q * strides_[2];
      const int64_t filled = q < tile.queries ? tile.fragments : 0;
      if (strides_[3] == 1) {
        std::copy(row, row + filled, into);
        std::fill(into + filled, into + fragments_, 0.0f);
      } else {
        for (int64_t c = 0; c < fragments_; ++c) into[c * strides_[3]] = c < filled ? row[c] : 0.0f;
      }
    }
  }

  void write_context(const AttentionTile& tile, int64_t context) const {
    float* gram = gram_ + context * fragments_ * fragments_;
    std::fill(gram, gram + fragments_ * fragments_, 0.0f);
    for (int64_t c = 0; c < tile.fragments; ++c) {
      const float* row = tile.grad_gram + c * tile.stride;
      std::copy(row, row + tile.fragments, gram + c * fragments_);
    }
  }

 private:
  float *products_, *gram_, *norm_;
  int64_t sets_, queries_, fragments_, strides_[4];
};

// (G, K, Q) -> (1, K, Q): where all contexts have the same queries. In the order of the contexts.
Tensor sum_of_contexts(const Tensor& parts) {
  const int64_t size = parts.size(1) * parts.size(2);
  const Tensor out = empty_cpu({1, parts.size(1), parts.size(2)}, ScalarType::Float);
  const auto* from = static_cast<const float*>(parts.const_data_ptr());
  auto* sums = static_cast<float*>(out.mutable_data_ptr());
  std::fill(sums, sums + size, 0.0f);
  for (int64_t context = 0; context < parts.size(0); ++context) {
    for (int64_t i = 0; i < size; ++i) sums[i] += from[context * size + i];
  }
  return out;
}

AttentionRule make_rule(int64_t feature_norm, double lambda_softmax, int64_t focal, int64_t pooling,
                        double lambda_lse) {
  return {check_enum(feature_norm, FeatureNorm::kNone, "feature_norm"), float(lambda_softmax),
          check_enum(focal, Focal::kProb, "focal"), check_enum(pooling, Pooling::kMax, "pooling"), float(lambda_lse)};
}

// Calls f(tile, context, set) for every pair, and done(tile, context) after the last of a context.
template <class F, class Done>
void for_each_pair(const Pairs& pairs, const AttentionRule& rule, F f, Done done) {
  torch::stable::parallel_for(0, pairs.contexts, 1, [&](int64_t begin, int64_t end) {
    const ExactSubnormals exact;
    AttentionTile tile(rule, pairs.queries, pairs.fragments);
    for (int64_t context = begin; context < end; ++context) {
      pairs.load_context(context, tile);
      for (int64_t set = 0; set < pairs.sets; ++set) {
        pairs.load_set(context, set, tile);
        f(tile, context, set);
      }
      done(tile, context);
    }
  });
}

Tensor cross_attention(Tensor products, Tensor gram, Tensor query_norm, std::optional<Tensor> query_lengths,
                       std::optional<Tensor> context_lengths, int64_t feature_norm, double lambda_softmax,
                       int64_t focal, int64_t pooling, double lambda_lse) {
  const AttentionRule rule = make_rule(feature_norm, lambda_softmax, focal, pooling, lambda_lse);
  const Pairs pairs(products, gram, query_norm, query_lengths, context_lengths);
  const Tensor out = empty_cpu({pairs.contexts, pairs.sets}, ScalarType::Float);
  auto* scores = static_cast<float*>(out.mutable_data_ptr());
  for_each_pair(
      pairs, rule,
      [&](AttentionTile& tile, int64_t context, int64_t set) {
        scores[context * pairs.sets + set] = attention_score(tile);
      },
      [](AttentionTile&, int64_t) {});
  return out;
}

using Gradients = std::tuple<Tensor, Tensor, Tensor>;

Gradients cross_attention_backward(Tensor grad_scores, Tensor products, Tensor gram, Tensor query_norm,
                                   std::optional<Tensor> query_lengths, std::optional<Tensor> context_lengths,
                                   int64_t feature_norm, double lambda_softmax, int64_t focal, int64_t pooling,
                                   double lambda_lse) {
  const AttentionRule rule = make_rule(feature_norm, lambda_softmax, focal, pooling, lambda_lse);
  const Pairs pairs(products, gram, query_norm, query_lengths, context_lengths);
  const auto [contexts, sets, queries, fragments] =
      std::tuple(pairs.contexts, pairs.sets, pairs.queries, pairs.fragments);
  STD_TORCH_CHECK(grad_scores.dim() == 2 && grad_scores.size(0) == contexts && grad_scores.size(1) == sets &&
                      grad_scores.scalar_type() == ScalarType::Float,
                  "grad_scores must be float32 of shape (", contexts, ", ", sets, ")");
  const Tensor by_score = torch::stable::contiguous(grad_scores);
  const Tensor grad_products = torch::stable::empty_like(products);
  const Tensor grad_gram = empty_cpu({contexts, fragments, fragments}, ScalarType::Float);
  const Tensor grad_norm = empty_cpu({contexts, sets, queries}, ScalarType::Float);
  const TileWriter writer(grad_products, grad_gram, grad_norm);
  for_each_pair(
      pairs, rule,
      [&](AttentionTile& tile, int64_t context, int64_t set) {
        attention_gradient(tile, static_cast<const float*>(by_score.const_data_ptr())[context * sets + set]);
        writer.write_set(tile, context, set);
      },
      [&](const AttentionTile& tile, int64_t context) { writer.write_context(tile, context); });
  return {grad_products, grad_gram, pairs.own_queries ? grad_norm : sum_of_contexts(grad_norm)};
}

}  // namespace
}  // namespace aoq::cpu

STABLE_TORCH_LIBRARY_IMPL(aoq, CPU, m) {
  m.impl("cross_attention", TORCH_BOX(&aoq::cpu::cross_attention));
  m.impl("cross_attention_backward", TORCH_BOX(&aoq::cpu::cross_attention_backward));
}
