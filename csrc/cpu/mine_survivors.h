// The candidates that may still be among the k hardest of one anchor, kept in a buffer of fixed size.
#pragma once

#include <algorithm>
#include <cstdint>

#include "cpu/mine_filter.h"
#include "math/top_k_key.h"

namespace aoq::cpu {

// What all anchors share.
struct MiningProblem {
  const float* anchors;          // (N, D)
  const float* candidates;       // (M, D)
  const int64_t* anchor_ids;     // (N,), null together with candidate_ids
  const int64_t* candidate_ids;  // (M,)
  int64_t anchor_count;
  int64_t candidate_count;
  int64_t width;
  int64_t k;              // 1 ≤ k ≤ M
  double candidate_norm;  // no candidate is longer
  double input_rounding;  // of the fast product; see math/top_k_bound.h
};

// Keys hold fast scores, off by at most `error`, until rescore_below() has made them exact. Whenever there is a
// threshold, k candidates have a true score of at least threshold + error; so a candidate whose fast score is below the
// threshold is behind them all. Keys stay in the order of their candidates.
class Survivors {
 public:
  // `buffer` holds capacity(problem, room) keys.
  Survivors(const MiningProblem& problem, int64_t anchor, TopKKey* buffer);
  static int64_t capacity(const MiningProblem& problem, int64_t room) { return crowd(problem) + room + kFilterSlack; }

  // Takes in the fast scores of candidates [first, first + count), count ≤ room, in ascending order of `first`.
  void add(const float* scores, int64_t first, int64_t count);

  // Requests the memory that add() will write: the other anchors' buffers have pushed it out of the cache.
  void prefetch() const;

  // After the last add(): drops what it can.
  void close();

  // Makes the scores of candidates before `end` exact; in steps of ascending `end`, so that anchors can take turns
  // over candidates that are in the cache.
  void rescore_below(int64_t end);

  // After rescore_below(M): writes k indices and scores, hardest first, −1 and −∞ where there are none.
  void write(int64_t* indices, float* scores);

 private:
  // A buffer that holds more than this is shrunk before it takes another row.
  static int64_t crowd(const MiningProblem& problem) { return std::min(2 * problem.k + 64, problem.candidate_count); }

  void raise_threshold(int64_t most);
  void keep_k_exactly();

  const MiningProblem& problem_;
  int64_t anchor_;
  TopKKey* keys_;
  int64_t count_ = 0;
  int64_t rescored_ = 0;
  double error_;
  float threshold_;
};

}  // namespace aoq::cpu
