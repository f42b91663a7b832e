// Merges the hits of a line into its list: a block for each. Hits that cannot be among the k greatest are dropped by
// their fast scores, the others get their score, and the k greatest of list and hits are the new list.
#pragma once

#include <algorithm>

#include "cuda/mining/block_select.cuh"
#include "cuda/mining/exact_score.cuh"
#include "cuda/mining/mining_params.h"
#include "math/round_outward.h"

namespace aoq::device {

template <class Element>
struct MergeKernel {
  using Params = MergeParams<Element>;
  static constexpr int kThreads = 128;
  static constexpr int kBlocksPerProcessor = 5;  // rows are fetched from anywhere: many must be on their way

  struct Shared {
    SelectShared<kThreads> select;
    uint32_t taken;
  };
  static constexpr int kListOffset = (int(sizeof(Shared)) + 15) / 16 * 16;

  // The line's row is converted once, unless it is very long; where it was, the list is sorted later.
  static constexpr int64_t kMostConverted = kMostListed;
  static constexpr int kSharedBytes = kListOffset + int(kMostListed * sizeof(TopKKey));

  static int64_t shared_bytes(const Params& p) {
    static_assert(sizeof(double) == sizeof(TopKKey));
    const int64_t row = p.width <= kMostConverted ? p.width : 0;
    return kListOffset + std::max(p.padded_k, row) * int64_t(sizeof(TopKKey));
  }

  AOQ_DEVICE static void run(const Params& p) {
    const int64_t line = block_index(), i = p.hits.lines.at(line), k = p.line.lists.k;
    const int64_t found = p.hits.found[line];
    if (found == 0) return;
    if (found > p.hits.capacity && thread_index() == 0) p.line.lists.failed[i] = 1;
    Shared& shared = *reinterpret_cast<Shared*>(shared_memory());
    TopKKey* const hits = p.hits.keys + line * p.hits.capacity;
    TopKKey* const list = p.line.lists.keys + i * k;
    const float cap = p.line.lists.caps ? p.line.lists.caps[i] : std::numeric_limits<float>::infinity();
    const double error = list_error(p.width, p.unit, p.line.lists.bound[i], p.place.lists.greatest);
    int64_t count = found < p.hits.capacity ? found : p.hits.capacity;
    count = drop_behind(hits, count, list, k, cap, error, shared);
    if (count == 0) return;
    const Element* const row = p.line.rows + i * p.line.stride;
    if (p.width <= kMostConverted) {
      auto* const converted = reinterpret_cast<double*>(shared_memory() + kListOffset);
      for (int64_t d = thread_index(); d < p.width; d += kThreads) converted[d] = double(widen(row[d]));
      sync_block();
      score(p, converted, hits, count, cap);
    } else {
      score(p, row, hits, count, cap);
    }
    sync_block();
    auto* const sorted = reinterpret_cast<TopKKey*>(shared_memory() + kListOffset);
    select(hits, count, list, k, sorted, p.padded_k, shared);
  }

 private:
  // k pairs, of the list or certainly below the cap, have a fast or exact score of at least t, hence a score of at
  // least t − error; a pair whose fast score is below t − 2 error is behind them all.
  AOQ_DEVICE static int64_t drop_behind(TopKKey* hits, int64_t count, const TopKKey* list, int64_t k, float cap,
                                        double error, Shared& shared) {
    const float certain = float_below(double(cap) - error);
    const auto word = [&](int64_t e) -> uint64_t {
      if (e < k) return key_word(list[e]);
      return top_k_score(hits[e - k]) <= certain ? key_word(hits[e - k]) : 0;
    };
    const uint64_t reached = kth_greatest<kThreads>(k + count, k, word, shared.select);
    if (reached == 0) return count;
    const TopKKey floor = top_k_floor(float_below(double(top_k_score(word_key(reached))) - 2 * error));
    return keep_in_front<kThreads>(hits, count, [&](TopKKey key) { return key >= floor; }, shared.select);
  }

  // `row` is the line's, as it is or converted.
  template <class Left>
  AOQ_DEVICE static void score(const Params& p, const Left* row, TopKKey* hits, int64_t count, float cap) {
    using Score = ExactScore<Element>;
    constexpr int kPairs = Score::kPairs * (kThreads / kWarpSize);
    for (int64_t first = warp_index() * Score::kPairs; first < count; first += kPairs) {
      const int64_t e = first + Score::pair() < count ? first + Score::pair() : count - 1;
      const int64_t j = top_k_index(hits[e]);
      const float score = Score::of(row, p.place.rows + j * p.place.stride, p.width);
      sync_warp();  // every lane of the pair has read its key
      if (Score::leads() && first + Score::pair() < count) {
        hits[e] = score > cap ? kNoTopKKey : top_k_key(score, uint32_t(p.place.first + j));
      }
    }
  }

  AOQ_DEVICE static void select(const TopKKey* hits, int64_t count, TopKKey* list, int64_t k, TopKKey* sorted,
                                int64_t padded_k, Shared& shared) {
    const auto word = [&](int64_t e) { return key_word(e < k ? list[e] : hits[e - k]); };
    const uint64_t last = kth_greatest<kThreads>(k + count, k, word, shared.select);
    const bool same = last != 0 && last == key_word(list[k - 1]) && (k == 1 || list[k - 2] != list[k - 1]);
    if (same) return;  // nothing is ahead of the old list
    if (thread_index() == 0) shared.taken = 0;
    sync_block();
    for (int64_t e = thread_index(); e < k + count; e += kThreads) {
      if (word(e) > last) sorted[atomic_add(&shared.taken, 1)] = word_key(word(e));
    }
    sync_block();
    for (int64_t e = shared.taken + thread_index(); e < padded_k; e += kThreads) {
      sorted[e] = e < k ? word_key(last) : kNoTopKKey;
    }
    sync_block();
    sort_in_shared<kThreads>(sorted, int(padded_k));
    for (int64_t e = thread_index(); e < k; e += kThreads) list[e] = sorted[e];
  }
};

}  // namespace aoq::device
