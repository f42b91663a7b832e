// The lists of the other direction: columns of the score matrix, which several threads add to at once.
#pragma once

#include <atomic>
#include <memory>
#include <vector>

#include "cpu/mining/scratch.h"
#include "cpu/mining/survivors.h"

namespace aoq::cpu {

class ColumnLists {
 public:
  // The lists of `candidates` among `anchors`.
  ColumnLists(const MiningSide& candidates, const MiningSide& anchors);

  // For ColumnView, from a column on. Floors rise while other threads read them, a word at a time and without a lock:
  // an older one lets more scores pass.
  const float* floors(int64_t column) const { return floor_.get() + column; }
  const float* uppers(int64_t column) const { return upper_.get() + column; }

  // Products of `row` with some columns, as filter_columns found them. Returns how many exact scores it took to tell
  // near-ties apart.
  int64_t add(const uint32_t* columns, const float* scores, int64_t count, int64_t row, Precision precision);

  std::vector<Survivors>& lists() { return lists_; }

 private:
  Scratch<TopKKey> keys_;
  Scratch<float> floor_, upper_;
  std::vector<Survivors> lists_;
  std::unique_ptr<std::atomic<bool>[]> locked_;
};

}  // namespace aoq::cpu
