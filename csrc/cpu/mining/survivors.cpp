#include "cpu/mining/survivors.h"

#include <algorithm>
#include <functional>
#include <limits>

#include "cpu/mining/exact_score.h"
#include "cpu/mining/select.h"
#include "math/round_outward.h"

namespace aoq::cpu {

namespace {

constexpr float kInfinity = std::numeric_limits<float>::infinity();

bool by_index(TopKKey a, TopKKey b) { return top_k_index(a) < top_k_index(b); }

}  // namespace

Survivors::Survivors(const MiningSide& own, const MiningSide& other, int64_t index, TopKKey* buffer)
    : own_(own),
      other_(other),
      index_(index),
      keys_(buffer),
      coarse_error_(row_error(own, index, other, Precision::kCoarse)),
      fine_error_(row_error(own, index, other, Precision::kFine)) {
  const TopKKey last = own.known[(index + 1) * own.k - 1];
  floor_ = last == kNoTopKKey ? -kInfinity : top_k_score(last);
}

float Survivors::upper() const {
  return own_.caps == nullptr ? kInfinity : float_above(static_cast<double>(own_.caps[index_]) + coarse_error_);
}

void Survivors::add(const float* scores, int64_t first, int64_t count, Precision precision) {
  make_room();
  const int64_t* ids = other_.identity.ids;
  const ScoreRow row{.scores = scores,
                     .candidate_ids = ids != nullptr ? ids + first : nullptr,
                     .count = count,
                     .anchor_id = ids != nullptr ? own_.identity.ids[index_] : 0,
                     .first_index = static_cast<uint32_t>(first),
                     .threshold = float_below(floor_ - error(precision)),
                     .upper = upper()};
  const int64_t before = count_;
  count_ += filter_row(row, keys_ + count_);
  if (count_ > before) {
    note(precision);
    if (own_.caps != nullptr || own_.identity.labels != nullptr) drop_new_exclusions(before, precision);
  }
}

void Survivors::add(float score, int64_t other, Precision precision) {
  if (score < floor_ - error(precision)) return;  // it was raised since the score was found
  if (belong_together(own_.identity, index_, other_.identity, other)) return;
  make_room();
  keys_[count_++] = top_k_key(score, static_cast<uint32_t>(other));
  note(precision);
  if (own_.caps != nullptr) drop_new_exclusions(count_ - 1, precision);
}

void Survivors::note(Precision precision) { has_coarse_ |= precision == Precision::kCoarse; }

void Survivors::drop_new_exclusions(int64_t from, Precision precision) {
  const auto drop = [&](auto is_excluded) {
    count_ = std::remove_if(keys_ + from, keys_ + count_, is_excluded) - keys_;
  };
  if (own_.identity.labels != nullptr) {
    drop([&](TopKKey key) { return share_label(own_.identity, index_, other_.identity, top_k_index(key)); });
  }
  if (own_.caps == nullptr) return;
  // Those near the cap, in front, get their exact scores, which say.
  TopKKey* const near = keys_ + from;
  TopKKey* const end =
      std::partition(near, keys_ + count_, [&](TopKKey key) { return may_exceed_cap(top_k_score(key), precision); });
  rescore(near, end - near, row(), other_.rows, own_.width);
  settled_ += end - near;
  if (end != near) drop([&](TopKKey key) { return top_k_score(key) > own_.caps[index_]; });
}

bool Survivors::may_exceed_cap(float score, Precision precision) const {
  return score >= static_cast<double>(own_.caps[index_]) - error(precision);
}

void Survivors::prefetch() const {
  constexpr int64_t kLine = 64 / sizeof(TopKKey);
  __builtin_prefetch(keys_ + count_, 1);
  __builtin_prefetch(keys_ + count_ + kLine, 1);
}

void Survivors::make_room() {
  const int64_t most = crowd(own_, other_);
  if (count_ <= most) return;
  raise_floor(own_.k + own_.k / 8);
  if (count_ > (own_.k + most) / 2) settle();  // near-ties beyond number: settle them now, not at every score
}

// k negatives have a fast score of at least `reached`, hence a true score of at least reached − error.
void Survivors::raise_floor(int64_t most) {
  const double bound = exact_ == count_ ? 0 : error(has_coarse_ ? Precision::kCoarse : Precision::kFine);
  floor_ = std::max(floor_, float_below(bound_kth_score(keys_, count_, own_.k, most) - bound));
  const TopKKey least = top_k_floor(float_below(floor_ - bound));
  const int64_t kept = keep_at_least(keys_, exact_, least);
  const int64_t others = keep_at_least(keys_ + exact_, count_ - exact_, least);
  std::copy(keys_ + exact_, keys_ + exact_ + others, keys_ + kept);
  exact_ = kept;
  count_ = kept + others;
}

// Drops all but the k hardest so far.
void Survivors::settle() {
  rescore(keys_ + exact_, count_ - exact_, row(), other_.rows, own_.width);
  settled_ += count_ - exact_;
  std::sort(keys_, keys_ + count_, std::greater<>());
  exact_ = count_ = std::min(count_, own_.k);
  has_coarse_ = false;
  if (count_ == own_.k) floor_ = std::max(floor_, top_k_score(keys_[count_ - 1]));
}

void Survivors::close() {
  if (count_ > own_.k) raise_floor(own_.k);
  if (!std::is_sorted(keys_, keys_ + count_, by_index)) std::sort(keys_, keys_ + count_, by_index);
}

void Survivors::rescore_below(int64_t end) {
  int64_t stop = rescored_;
  while (stop < count_ && top_k_index(keys_[stop]) < end) ++stop;
  rescore(keys_ + rescored_, stop - rescored_, row(), other_.rows, own_.width);
  rescored_ = stop;
}

void Survivors::write() {
  std::sort(keys_, keys_ + count_, std::greater<>());
  const TopKKey* known = own_.known + index_ * own_.k;
  TopKKey* best = own_.best + index_ * own_.k;
  int64_t taken = 0;
  for (int64_t i = 0; i < own_.k; ++i) {
    // Subtracting from a key raises its index.
    const TopKKey fresh = taken < count_ ? keys_[taken] - other_.first : kNoTopKKey;
    if (fresh > *known) {
      best[i] = fresh;
      ++taken;
    } else {
      best[i] = *known++;  // its list is k long, so this stays within it
    }
  }
}

}  // namespace aoq::cpu
