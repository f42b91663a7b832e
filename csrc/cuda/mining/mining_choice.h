// How a tile is mined: from how large a sample limits are guessed, how many hits there is room for, and how the rows
// are cut into blocks. Pure functions of sizes.
#pragma once

#include <algorithm>
#include <cmath>
#include <cstdint>

#include "cuda/mining/mining_params.h"
#include "cuda/tile/choice.h"

namespace aoq::device {

struct MiningBudget {
  int64_t bytes = int64_t(2) << 30;      // of the workspace, where a single row fits it
  int64_t least_sampled = 1024;          // fewer places are never sampled
  int64_t most_rows = int64_t(1) << 40;  // of a block
};

// For lists of k over some places: a sample of them, strided; the rank-th greatest score of the sample is the limit.
// Without a sample every pair is a hit, until a list is full.
struct ListChoice {
  int64_t places, sample, rank;

  bool is_sampled() const { return sample > 0; }
  double expected() const { return double(rank) / double(sample) * double(places); }  // hits
};

// Of the k greatest, μ = k · sample / places are in the sample, ± √μ. A rank of μ + 4√μ + 2 makes a list that comes
// short a matter of one in some ten thousand, where places come in no order that the stride meets; it is mined again,
// so that this decides about time alone.
inline ListChoice choose_sample(int64_t k, int64_t places, int64_t least_sampled) {
  constexpr int64_t kFewTimes = 4, kAim = 24;
  if (k == 0 || places <= least_sampled || places <= kFewTimes * k) return {places, 0, 0};
  const int64_t sample = std::min({kMostSampled, places / 2, std::max(int64_t(64), places * kAim / k)});
  const double among = double(k) * double(sample) / double(places);
  return {places, sample, std::min(sample, int64_t(among + 4 * std::sqrt(among)) + 2)};
}

// Hits of a list in a block of some of the places: what is expected, with the uncertainty of the sample (1/√rank of it)
// and of the block.
inline int64_t hit_capacity(const ListChoice& choice, int64_t block_places) {
  if (!choice.is_sampled()) return block_places;
  const double most = choice.expected() * (1 + 4 / std::sqrt(double(choice.rank)));
  const double share = most * double(block_places) / double(choice.places);
  return std::min(block_places, int64_t(share + 6 * std::sqrt(share)) + 16);
}

// The bytes of hits and limits.
inline int64_t hit_bytes(int64_t lines, int64_t capacity) {
  constexpr int64_t kRounding = 4 * 256;
  return lines * (capacity * int64_t(sizeof(TopKKey)) + 12) + kRounding;
}

struct MiningChoice {
  ListChoice anchors, candidates;
  int64_t blocks;  // of anchors: block b is anchors b, b + blocks, …
  int64_t rows;    // of the first block, the largest
  int64_t row_capacity, column_capacity;
  int64_t bytes;  // of the workspace
};

inline constexpr int64_t kLeastPanel = 4096;  // places in which a list that failed is mined at a time, at least

// The blocks are interleaved, so that neighbours, which resemble each other in many data sets, are spread over them.
inline MiningChoice choose_mining(int64_t n, int64_t m, int64_t anchor_k, int64_t candidate_k,
                                  const MiningBudget& budget) {
  constexpr int64_t kSampledLines = 1024;
  MiningChoice choice{};
  choice.anchors = choose_sample(anchor_k, m, budget.least_sampled);
  choice.candidates = choose_sample(candidate_k, n, budget.least_sampled);
  for (choice.blocks = tiles_along(n, budget.most_rows);; choice.blocks += 1 + choice.blocks / 8) {
    choice.blocks = std::min(choice.blocks, n);
    choice.rows = tiles_along(n, choice.blocks);
    choice.row_capacity = hit_capacity(choice.anchors, m);
    choice.column_capacity = candidate_k ? hit_capacity(choice.candidates, choice.rows) : 0;
    choice.bytes = hit_bytes(choice.rows, choice.row_capacity) + hit_bytes(candidate_k ? m : 0, choice.column_capacity);
    if (choice.bytes <= budget.bytes || choice.rows == 1) break;
  }
  for (const auto& [lines, list] : {std::pair(n, choice.anchors), std::pair(m, choice.candidates)}) {
    const int64_t sampled = std::min(lines, kSampledLines) * list.sample * int64_t(sizeof(float));
    choice.bytes = std::max({choice.bytes, sampled, hit_bytes(1, std::min(list.places, kLeastPanel))});
  }
  return choice;
}

// How the lists that failed are mined again: some at a time, over panels of the places for which there is room.
struct AgainChoice {
  int64_t lines, places;
};

inline AgainChoice choose_again(int64_t failed, int64_t places, int64_t bytes) {
  const int64_t lines = std::clamp(bytes / hit_bytes(1, std::min(places, kLeastPanel)), int64_t(1), failed);
  const int64_t room = (bytes - hit_bytes(lines, 0)) / (lines * int64_t(sizeof(TopKKey)));
  return {lines, std::clamp(room, int64_t(1), places)};
}

}  // namespace aoq::device
