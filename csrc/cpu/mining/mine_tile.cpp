// aoq::mine_tile: a tile of scores merged into the lists of its rows and columns, exactly; aoq_ext/mining/tile.py has
// the definition.
#include <algorithm>
#include <atomic>
#include <memory>
#include <optional>
#include <tuple>
#include <vector>

#include "cpu/mining/columns.h"
#include "cpu/mining/held_side.h"
#include "cpu/mining/panels.h"
#include "cpu/mining/scratch.h"
#include "cpu/mining/survivors.h"
#include "cpu/product/cache.h"
#include "cpu/product/subnormals.h"
#include "math/round_outward.h"
#include "stable_compat.h"

namespace aoq::cpu {

namespace {

// What one thread does at a time: blocks of anchors against panels of candidates, and then the exact scores of a group
// of blocks.
struct Tiling {
  int64_t rows;           // anchors in a block
  int64_t grouped_rows;   // in a group, whole blocks
  int64_t columns;        // candidates in a panel of scores
  int64_t rescored_rows;  // of the other side, against which a group is rescored before going on
};

// Many rows make the product efficient; a panel should stay in the cache until the filter has read it. The larger a
// group, the more of its scores are made exact while a candidate is in the cache.
Tiling choose_tiling(const MiningSide& anchors, const MiningSide& candidates, int64_t panel, int64_t threads) {
  constexpr int64_t kMostRows = 42 * kImagePanel, kMostGrouped = 8 * kMostRows, kMostColumns = 512;
  constexpr int64_t kBufferBytes = int64_t(64) << 20;
  const auto parts = [](int64_t rows, int64_t most) { return (rows + most - 1) / most; };
  const auto whole = [&](int64_t rows, int64_t part) { return parts(rows, part) * part; };
  const int64_t list_bytes = Survivors::capacity(anchors, candidates, kMostColumns) * int64_t(sizeof(TopKKey));
  const int64_t most = std::clamp(kBufferBytes / list_bytes, kImagePanel, kMostGrouped);
  // Two groups a thread, so that one that is held up does not hold up all; groups and their blocks of equal size.
  const int64_t even = parts(anchors.count, 2 * threads * parts(anchors.count, 2 * threads * most));
  const int64_t blocks = parts(even, kMostRows);
  const int64_t rows = whole(parts(even, blocks), kImagePanel);
  const int64_t cached = second_level_cache_bytes() / 2 / static_cast<int64_t>(sizeof(float));
  const int64_t wanted = panel > 0 ? panel : std::min(cached / rows, kMostColumns);
  return {.rows = rows,
          .grouped_rows = blocks * rows,
          .columns = std::clamp(whole(wanted, kTextPanel), kTextPanel, PackedCandidates::kBlock),
          .rescored_rows = std::max<int64_t>(1, 4 * cached / candidates.width)};
}

// The rows are used in an order that the hardware does not foresee; memory delivers them faster in their own.
void prefetch_rows(const MiningSide& side, int64_t begin, int64_t end) {
  constexpr int64_t kLine = 64 / sizeof(float);
  for (int64_t e = begin * side.width; e < end * side.width; e += kLine) __builtin_prefetch(side.rows + e, 0, 2);
}

// Lists jump about among the rows of the other side, so they take turns over a stretch that the cache holds.
void finish_lists(Survivors* lists, int64_t count, const MiningSide& other, int64_t stretch) {
  for (int64_t i = 0; i < count; ++i) lists[i].close();
  for (int64_t first = 0; first < other.count; first += stretch) {
    const int64_t end = std::min(first + stretch, other.count);
    prefetch_rows(other, first, end);
    for (int64_t i = 0; i < count; ++i) lists[i].rescore_below(end);
  }
  for (int64_t i = 0; i < count; ++i) lists[i].write();
}

// Coarse scores are for the filter alone. Where many rows are nearly alike it lets so many pass that telling them apart
// costs more than a finer product; then the rest of the tile gets that, where there is one.
class PrecisionChoice {
 public:
  PrecisionChoice(Precision first, bool may_refine) : may_refine_(may_refine), fine_(first == Precision::kFine) {}

  Precision get() const { return fine_.load(std::memory_order_relaxed) ? Precision::kFine : Precision::kCoarse; }

  void note(int64_t scores, int64_t settled) {
    constexpr int64_t kScoresPerSettled = 32, kFewScores = 1 << 20;
    const int64_t all = scores_.fetch_add(scores, std::memory_order_relaxed) + scores;
    const int64_t hard = settled_.fetch_add(settled, std::memory_order_relaxed) + settled;
    if (may_refine_ && all > kFewScores && hard > all / kScoresPerSettled) fine_.store(true, std::memory_order_relaxed);
  }

 private:
  const bool may_refine_;
  std::atomic<bool> fine_;
  std::atomic<int64_t> scores_{0}, settled_{0};
};

// What one thread works in.
class Worker {
 public:
  // Workers that share column lists begin at different candidates, so that they seldom meet.
  Worker(ProductPlan& plan, const Tiling& tiling, ColumnLists* columns, PrecisionChoice& precision, int64_t start)
      : anchors_(plan.anchors),
        candidates_(plan.candidates),
        tiling_(tiling),
        columns_(columns),
        start_(start),
        precision_(precision),
        product_(plan),
        capacity_(Survivors::capacity(plan.anchors, plan.candidates, tiling.columns)),
        panel_(make_scratch<float>(tiling.rows * tiling.columns)),
        keys_(make_scratch<TopKKey>(tiling.grouped_rows * capacity_)),
        hit_columns_(tiling.columns + kFilterSlack),
        hit_scores_(tiling.columns + kFilterSlack) {}

  // Anchors [begin, end), at most tiling.grouped_rows of them.
  void mine(int64_t begin, int64_t end) {
    std::vector<Survivors> group;
    group.reserve(end - begin);
    for (int64_t i = begin; i < end; ++i) {
      group.emplace_back(anchors_, candidates_, i, keys_.get() + (i - begin) * capacity_);
    }
    for (int64_t first = begin; first < end; first += tiling_.rows) {
      filter_block(group.data() + (first - begin), first, std::min(tiling_.rows, end - first));
    }
    finish_lists(group.data(), end - begin, candidates_, tiling_.rescored_rows);
  }

 private:
  void filter_block(Survivors* block, int64_t begin, int64_t rows) {
    product_.choose_rows(begin, rows);
    filter_panels(block, begin, rows, start_, candidates_.count);
    filter_panels(block, begin, rows, 0, start_);
  }

  void filter_panels(Survivors* block, int64_t begin, int64_t rows, int64_t from, int64_t to) {
    for (int64_t first = from, stop; first < to; first = stop) {
      const int64_t block_end = (first / PackedCandidates::kBlock + 1) * PackedCandidates::kBlock;
      stop = std::min({first + tiling_.columns, block_end, to});
      filter_panel(block, begin, rows, first, stop - first);
    }
  }

  void filter_panel(Survivors* block, int64_t begin, int64_t rows, int64_t first, int64_t columns) {
    constexpr int64_t kAhead = 4;
    const Precision precision = precision_.get();
    product_.multiply(precision, first, columns, panel_.get());
    int64_t settled = 0;
    for (int64_t i = 0; i < rows; ++i) {
      if (i + kAhead < rows) block[i + kAhead].prefetch();
      const float* scores = panel_.get() + i * columns;
      settled -= block[i].settled();
      block[i].add(scores, first, columns, precision);
      settled += block[i].settled();
      if (columns_ != nullptr) settled += filter_for_columns(begin + i, scores, first, columns, precision);
    }
    precision_.note(rows * columns, settled);
  }

  int64_t filter_for_columns(int64_t anchor, const float* scores, int64_t first, int64_t columns, Precision precision) {
    const ColumnView view{scores, columns_->floors(first), columns_->uppers(first), columns,
                          float_above(row_error(anchors_, anchor, candidates_, precision))};
    const int64_t hits = filter_columns(view, static_cast<uint32_t>(first), hit_columns_.data(), hit_scores_.data());
    return columns_->add(hit_columns_.data(), hit_scores_.data(), hits, anchor, precision);
  }

  const MiningSide &anchors_, &candidates_;
  Tiling tiling_;
  ColumnLists* columns_;
  int64_t start_;  // the candidate it begins with, a multiple of PackedCandidates::kBlock
  PrecisionChoice& precision_;
  PanelProduct product_;
  int64_t capacity_;
  Scratch<float> panel_;
  Scratch<TopKKey> keys_;
  std::vector<uint32_t> hit_columns_;  // of one row
  std::vector<float> hit_scores_;
};

// Codes of the operator's `arithmetic`.
enum class Choice { kAutomatic, kFloat, kBfloat16, kTorch };

Product fine_product(Choice choice) {
  return choice != Choice::kTorch && has_packed_product(Word::kFloat) ? Product::kPackedFloat : Product::kTorch;
}

bool may_round_to_bfloat16(Choice choice) {
  return (choice == Choice::kAutomatic || choice == Choice::kBfloat16) && has_packed_product(Word::kBfloat16Pair);
}

bool fits_bfloat16(const MiningSide& side) {
  constexpr double kSafeNorm = 1e18;  // greater values could become infinite
  return side.longest.norm < kSafeNorm;
}

void mine_all(MiningSide& anchors, MiningSide& candidates, double input_rounding, Choice choice, int64_t panel) {
  const ExactSubnormals exact;
  const Product fine = fine_product(choice);
  bool rounds = may_round_to_bfloat16(choice);
  if (rounds) {
    measure_rows(anchors, Product::kPackedBfloat16, 0);
    measure_rows(candidates, Product::kPackedBfloat16, 0);
    rounds = fits_bfloat16(anchors) && fits_bfloat16(candidates);
  }
  if (!rounds) {
    measure_rows(anchors, fine, input_rounding);
    measure_rows(candidates, fine, input_rounding);
  }
  const Product coarse = rounds ? Product::kPackedBfloat16 : fine;
  for (MiningSide* side : {&anchors, &candidates}) {
    side->additions[static_cast<int>(Precision::kCoarse)] = longest_sum(coarse, side->width);
    side->additions[static_cast<int>(Precision::kFine)] = longest_sum(fine, side->width);
  }
  ProductPlan plan{anchors, candidates, coarse, fine};
  // Of torch's product it is not known here that it is fine.
  PrecisionChoice precision(rounds || fine == Product::kTorch ? Precision::kCoarse : Precision::kFine, rounds);
  if (plan.coarse != Product::kTorch) {  // where it is known that it is used
    (precision.get() == Precision::kCoarse ? plan.packed_coarse : plan.packed_fine).pack_all();
  }
  const int64_t threads = std::max<int64_t>(1, torch::stable::get_num_threads());
  const Tiling tiling = choose_tiling(anchors, candidates, panel, threads);
  std::unique_ptr<ColumnLists> columns;
  if (candidates.k > 0) columns = std::make_unique<ColumnLists>(candidates, anchors);
  std::atomic<int64_t> next{0}, workers{0};
  torch::stable::parallel_for(0, threads, 1, [&](int64_t, int64_t) {
    const ExactSubnormals exact;
    std::unique_ptr<Worker> worker;
    for (int64_t begin; (begin = next.fetch_add(tiling.grouped_rows)) < anchors.count;) {
      if (!worker) {
        const int64_t share = columns == nullptr ? 0 : workers.fetch_add(1) * candidates.count / threads;
        const int64_t start = share / PackedCandidates::kBlock * PackedCandidates::kBlock;
        worker = std::make_unique<Worker>(plan, tiling, columns.get(), precision, start);
      }
      worker->mine(begin, std::min(begin + tiling.grouped_rows, anchors.count));
    }
  });
  if (columns == nullptr) return;
  constexpr int64_t kColumnsAtATime = 4096;
  torch::stable::parallel_for(0, candidates.count, kColumnsAtATime, [&](int64_t begin, int64_t end) {
    const ExactSubnormals exact;
    for (int64_t first = begin; first < end; first += kColumnsAtATime) {
      finish_lists(columns->lists().data() + first, std::min(kColumnsAtATime, end - first), anchors,
                   tiling.rescored_rows);
    }
  });
}

}  // namespace

std::tuple<Tensor, Tensor> mine_tile(const Tensor& anchors,                           // (n, D) float32
                                     const Tensor& candidates,                        // (m, D) float32
                                     const Tensor& anchor_keys,                       // (n, k) int64
                                     const std::optional<Tensor>& candidate_keys,     // (m, k') int64
                                     int64_t first_anchor,                            // number of row 0 among all
                                     int64_t first_candidate,                         //
                                     const std::optional<Tensor>& anchor_ids,         // (n,) int64
                                     const std::optional<Tensor>& candidate_ids,      // (m,) int64
                                     const std::optional<Tensor>& anchor_labels,      // (L,) int64
                                     const std::optional<Tensor>& anchor_offsets,     // (n + 1,) int64
                                     const std::optional<Tensor>& candidate_labels,   // (L',) int64
                                     const std::optional<Tensor>& candidate_offsets,  // (m + 1,) int64
                                     const std::optional<Tensor>& anchor_caps,        // (n,) float32
                                     const std::optional<Tensor>& candidate_caps,     // (m,) float32
                                     double input_rounding,  // of torch's product; see mine_operands.h
                                     int64_t arithmetic,     // Choice
                                     int64_t panel) {        // candidates in a panel, 0: as fits the cache
  const TileArguments given{anchors,          candidates,        anchor_keys,   candidate_keys, first_anchor,
                            first_candidate,  anchor_ids,        candidate_ids, anchor_labels,  anchor_offsets,
                            candidate_labels, candidate_offsets, anchor_caps,   candidate_caps};
  check_tile(given);
  STD_TORCH_CHECK(anchors.scalar_type() == ScalarType::Float, "anchors must be float32 on the CPU");
  STD_TORCH_CHECK(input_rounding >= 0 && panel >= 0, "input_rounding and panel must not be negative");
  const Choice choice = Choice(arithmetic);
  check_enum(choice, Choice::kTorch, "arithmetic");
  Tensor anchor_best = torch::stable::contiguous(torch::stable::clone(anchor_keys));
  Tensor candidate_best = candidate_keys ? torch::stable::contiguous(torch::stable::clone(*candidate_keys))
                                         : empty_cpu({0}, ScalarType::Long);
  if (anchors.size(0) == 0 || candidates.size(0) == 0) return {anchor_best, candidate_best};
  HeldSide rows(anchors, anchor_keys, first_anchor, anchor_ids, anchor_labels, anchor_offsets, anchor_caps);
  HeldSide columns(candidates, candidate_keys, first_candidate, candidate_ids, candidate_labels, candidate_offsets,
                   candidate_caps);
  rows.side.best = anchor_best.mutable_data_ptr<int64_t>();
  if (candidate_keys) columns.side.best = candidate_best.mutable_data_ptr<int64_t>();
  mine_all(rows.side, columns.side, input_rounding, choice, panel);
  return {anchor_best, candidate_best};
}

STABLE_TORCH_LIBRARY_IMPL(aoq, CPU, m) { m.impl("mine_tile", TORCH_BOX(&mine_tile)); }

}  // namespace aoq::cpu
