// aoq::mine_top_k: for each anchor the k hardest of all candidates, exactly; see aoq_ext/mining.py for the definition.
#include <algorithm>
#include <atomic>
#include <memory>
#include <optional>
#include <tuple>
#include <vector>

#include "checks.h"
#include "cpu/cache.h"
#include "cpu/mine_scratch.h"
#include "cpu/mine_survivors.h"
#include "stable_compat.h"

namespace aoq::cpu {

namespace {

// What one thread does at a time: a block of anchors against panels of candidates.
struct Tiling {
  int64_t rows;              // anchors in a block
  int64_t columns;           // candidates in a panel of scores
  int64_t rescored_columns;  // candidates the block rescores against before going on
};

// Many rows make the product efficient; a panel should stay in the cache until the filter has read it.
Tiling choose_tiling(const MiningProblem& problem, int64_t panel, int64_t threads) {
  constexpr int64_t kMaxRows = 1024, kMinRows = 16, kMinColumns = 64, kMaxColumns = 1024;
  constexpr int64_t kBufferBytes = int64_t(64) << 20;
  const int64_t buffer_bytes = Survivors::capacity(problem, kMaxColumns) * static_cast<int64_t>(sizeof(TopKKey));
  const int64_t most = std::clamp(kBufferBytes / buffer_bytes, kMinRows, kMaxRows);
  const int64_t blocks = threads * ((problem.anchor_count + threads * most - 1) / (threads * most));
  const int64_t rows = (problem.anchor_count + blocks - 1) / blocks;
  const int64_t cached = second_level_cache_bytes() / 2 / static_cast<int64_t>(sizeof(float));
  const int64_t columns = panel > 0 ? panel : std::clamp(cached / rows, kMinColumns, kMaxColumns);
  return {rows, std::min(columns, problem.candidate_count), std::max<int64_t>(1, cached / problem.width)};
}

// What one thread works in.
class Worker {
 public:
  Worker(const MiningProblem& problem, const Tiling& tiling)
      : problem_(problem),
        tiling_(tiling),
        capacity_(Survivors::capacity(problem, tiling.columns)),
        panel_(make_scratch<float>(tiling.rows * tiling.columns)),
        keys_(make_scratch<TopKKey>(tiling.rows * capacity_)) {}

  // Anchors [begin, end), at most tiling.rows of them; indices and scores are (N, k).
  void mine(int64_t begin, int64_t end, int64_t* indices, float* scores) {
    std::vector<Survivors> block;
    block.reserve(end - begin);
    for (int64_t i = begin; i < end; ++i) block.emplace_back(problem_, i, keys_.get() + (i - begin) * capacity_);
    filter(block, begin, end);
    rescore(block);
    for (Survivors& anchor : block) {
      anchor.write(indices + begin * problem_.k, scores + begin * problem_.k);
      ++begin;
    }
  }

 private:
  void filter(std::vector<Survivors>& block, int64_t begin, int64_t end) {
    constexpr int64_t kAhead = 4;
    const int64_t rows = end - begin;
    for (int64_t first = 0; first < problem_.candidate_count; first += tiling_.columns) {
      const int64_t columns = std::min(tiling_.columns, problem_.candidate_count - first);
      multiply(begin, end, first, columns);
      for (int64_t i = 0; i < rows; ++i) {
        if (i + kAhead < rows) block[i + kAhead].prefetch();
        block[i].add(panel_.get() + i * columns, first, columns);
      }
    }
  }

  // Every anchor jumps about among the candidates, so they take turns over a stretch that the cache holds.
  void rescore(std::vector<Survivors>& block) {
    for (Survivors& anchor : block) anchor.close();
    for (int64_t first = 0; first < problem_.candidate_count; first += tiling_.rescored_columns) {
      const int64_t end = std::min(first + tiling_.rescored_columns, problem_.candidate_count);
      prefetch_rows(first, end);
      for (Survivors& anchor : block) anchor.rescore_below(end);
    }
  }

  // In their order, which the memory delivers faster than the order in which they are used.
  void prefetch_rows(int64_t begin, int64_t end) const {
    constexpr int64_t kLine = 64 / sizeof(float);
    for (int64_t e = begin * problem_.width; e < end * problem_.width; e += kLine) {
      __builtin_prefetch(problem_.candidates + e, 0, 2);
    }
  }

  // panel = anchors[begin:end] · candidates[first:first + columns]ᵀ
  void multiply(int64_t begin, int64_t end, int64_t first, int64_t columns) {
    const Tensor panel = cpu_view(panel_.get(), end - begin, columns, ScalarType::Float);
    const Tensor anchors = rows_of(problem_.anchors, begin, end - begin);
    const Tensor candidates = rows_of(problem_.candidates, first, columns);
    mm_out(panel, anchors, torch::stable::transpose(candidates, 0, 1));
  }

  Tensor rows_of(const float* data, int64_t first, int64_t count) const {
    return cpu_view(const_cast<float*>(data) + first * problem_.width, count, problem_.width, ScalarType::Float);
  }

  const MiningProblem& problem_;
  Tiling tiling_;
  int64_t capacity_;
  Scratch<float> panel_;
  Scratch<TopKKey> keys_;
};

void mine_all(const MiningProblem& problem, int64_t panel, int64_t* indices, float* scores) {
  const int64_t threads = std::max<int64_t>(1, torch::stable::get_num_threads());
  const Tiling tiling = choose_tiling(problem, panel, threads);
  std::atomic<int64_t> next{0};
  torch::stable::parallel_for(0, threads, 1, [&](int64_t, int64_t) {
    std::unique_ptr<Worker> worker;
    for (int64_t begin; (begin = next.fetch_add(tiling.rows)) < problem.anchor_count;) {
      if (!worker) worker = std::make_unique<Worker>(problem, tiling);
      worker->mine(begin, std::min(begin + tiling.rows, problem.anchor_count), indices, scores);
    }
  });
}

void check_matrix(const Tensor& tensor, const char* name) {
  STD_TORCH_CHECK(tensor.dim() == 2 && tensor.size(1) > 0, name, " must have shape (rows, D) with D ≥ 1");
  STD_TORCH_CHECK(tensor.scalar_type() == ScalarType::Float, name, " must be float32");
}

std::optional<Tensor> contiguous_ids(const std::optional<Tensor>& ids) {
  return ids.has_value() ? std::optional(torch::stable::contiguous(*ids)) : std::nullopt;
}

}  // namespace

std::tuple<Tensor, Tensor> mine_top_k(const Tensor& anchors,                       // (N, D) float32
                                      const Tensor& candidates,                    // (M, D) float32
                                      int64_t k,                                   // 1 ≤ k ≤ M
                                      const std::optional<Tensor>& anchor_ids,     // (N,) int64
                                      const std::optional<Tensor>& candidate_ids,  // (M,) int64
                                      double candidate_norm,                       // no candidate is longer
                                      double input_rounding,                       // see math/top_k_bound.h
                                      int64_t panel) {  // candidates per panel, 0: as fits the cache
  check_matrix(anchors, "anchors");
  check_matrix(candidates, "candidates");
  STD_TORCH_CHECK(candidates.size(1) == anchors.size(1), "candidates must have the D of anchors");
  STD_TORCH_CHECK(candidates.size(0) <= int64_t(UINT32_MAX), "candidates must have fewer than 2^32 rows");
  STD_TORCH_CHECK(k >= 1, "k must be at least 1, got ", k);
  STD_TORCH_CHECK(candidate_norm >= 0 && input_rounding >= 0 && panel >= 0, "bounds and panel must not be negative");
  STD_TORCH_CHECK(anchor_ids.has_value() == candidate_ids.has_value(), "both ids must be given, or neither");
  if (anchor_ids.has_value()) check_vector(*anchor_ids, anchors.size(0), ScalarType::Long, "anchor_ids");
  if (candidate_ids.has_value()) check_vector(*candidate_ids, candidates.size(0), ScalarType::Long, "candidate_ids");

  const int64_t n = anchors.size(0), m = candidates.size(0);
  STD_TORCH_CHECK(k <= m, "k must be at most the number of candidates, ", m, ", got ", k);

  Tensor indices = empty_cpu({n, k}, ScalarType::Long);
  Tensor scores = empty_cpu({n, k}, ScalarType::Float);
  if (n == 0) return {indices, scores};
  const Tensor anchor_rows = torch::stable::contiguous(anchors);
  const Tensor candidate_rows = torch::stable::contiguous(candidates);
  const std::optional<Tensor> own = contiguous_ids(anchor_ids), other = contiguous_ids(candidate_ids);
  const MiningProblem problem{.anchors = anchor_rows.const_data_ptr<float>(),
                              .candidates = candidate_rows.const_data_ptr<float>(),
                              .anchor_ids = own ? own->const_data_ptr<int64_t>() : nullptr,
                              .candidate_ids = other ? other->const_data_ptr<int64_t>() : nullptr,
                              .anchor_count = n,
                              .candidate_count = m,
                              .width = anchors.size(1),
                              .k = k,
                              .candidate_norm = candidate_norm,
                              .input_rounding = input_rounding};
  mine_all(problem, panel, indices.mutable_data_ptr<int64_t>(), scores.mutable_data_ptr<float>());
  return {indices, scores};
}

STABLE_TORCH_LIBRARY_IMPL(aoq, CPU, m) { m.impl("mine_top_k", TORCH_BOX(&mine_top_k)); }

}  // namespace aoq::cpu
