#include "cpu/mine_survivors.h"

#include <algorithm>
#include <cmath>
#include <functional>
#include <limits>

#include "cpu/mine_score.h"
#include "cpu/mine_select.h"
#include "math/top_k_bound.h"

namespace aoq::cpu {

namespace {

constexpr float kInfinity = std::numeric_limits<float>::infinity();

// The greatest float32 at or below a float64.
float round_down(double value) {
  const float nearest = static_cast<float>(value);
  return static_cast<double>(nearest) > value ? std::nextafter(nearest, -kInfinity) : nearest;
}

}  // namespace

Survivors::Survivors(const MiningProblem& problem, int64_t anchor, TopKKey* buffer)
    : problem_(problem), anchor_(anchor), keys_(buffer), threshold_(-kInfinity) {
  const double norm = euclidean_norm(problem.anchors + anchor * problem.width, problem.width);
  error_ = product_error(problem.width, problem.input_rounding, norm, problem.candidate_norm);
}

void Survivors::add(const float* scores, int64_t first, int64_t count) {
  const int64_t k = problem_.k, most = crowd(problem_);
  if (count_ > most) {
    raise_threshold(k + k / 8);
    if (count_ > (k + most) / 2) keep_k_exactly();  // near-ties beyond number: settle them now, not at every row
  }
  const bool has_ids = problem_.anchor_ids != nullptr;
  const ScoreRow row{.scores = scores,
                     .candidate_ids = has_ids ? problem_.candidate_ids + first : nullptr,
                     .count = count,
                     .anchor_id = has_ids ? problem_.anchor_ids[anchor_] : 0,
                     .first_index = static_cast<uint32_t>(first),
                     .threshold = threshold_};
  count_ += filter_row(row, keys_ + count_);
}

void Survivors::prefetch() const {
  constexpr int64_t kLine = 64 / sizeof(TopKKey);
  __builtin_prefetch(keys_ + count_, 1);
  __builtin_prefetch(keys_ + count_ + kLine, 1);
}

void Survivors::close() {
  if (count_ > problem_.k) raise_threshold(problem_.k);
}

void Survivors::rescore_below(int64_t end) {
  int64_t stop = rescored_;
  while (stop < count_ && top_k_index(keys_[stop]) < end) ++stop;
  rescore(keys_ + rescored_, stop - rescored_, problem_.anchors + anchor_ * problem_.width, problem_.candidates,
          problem_.width);
  rescored_ = stop;
}

void Survivors::write(int64_t* indices, float* scores) {
  std::sort(keys_, keys_ + count_, std::greater<>());
  const int64_t found = std::min(count_, problem_.k);
  for (int64_t i = 0; i < found; ++i) {
    indices[i] = top_k_index(keys_[i]);
    scores[i] = top_k_score(keys_[i]);
  }
  std::fill(indices + found, indices + problem_.k, -1);
  std::fill(scores + found, scores + problem_.k, -kInfinity);
}

// k candidates have a fast score of at least `reached`, hence a true score of at least reached − error.
void Survivors::raise_threshold(int64_t most) {
  const float reached = bound_kth_score(keys_, count_, problem_.k, most);
  threshold_ = std::max(threshold_, round_down(reached - 2 * error_));
  count_ = keep_at_least(keys_, count_, top_k_floor(threshold_));
}

// Drops all but the k hardest so far. Later candidates lose a tie, so they must do better than these.
void Survivors::keep_k_exactly() {
  rescored_ = 0;
  rescore_below(problem_.candidate_count);
  rescored_ = 0;
  std::sort(keys_, keys_ + count_, std::greater<>());
  count_ = problem_.k;
  threshold_ = std::max(threshold_, round_down(top_k_score(keys_[count_ - 1]) - error_));
  std::sort(keys_, keys_ + count_, [](TopKKey a, TopKKey b) { return top_k_index(a) < top_k_index(b); });
}

}  // namespace aoq::cpu
