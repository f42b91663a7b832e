#include "cpu/mining/columns.h"

#include <thread>

namespace aoq::cpu {

namespace {

// Held for some nanoseconds, most of the time; for microseconds where a list settles near-ties.
void lock(std::atomic<bool>& locked) {
  constexpr int kPatience = 64;
  for (int tries = 0; locked.exchange(true, std::memory_order_acquire); ++tries) {
    while (locked.load(std::memory_order_relaxed)) {
      if (++tries > kPatience) std::this_thread::yield();
    }
  }
}

}  // namespace

ColumnLists::ColumnLists(const MiningSide& candidates, const MiningSide& anchors)
    : floor_(make_scratch<float>(candidates.count)),
      upper_(make_scratch<float>(candidates.count)),
      locked_(new std::atomic<bool>[candidates.count]()) {
  const int64_t capacity = Survivors::capacity(candidates, anchors, 1);
  keys_ = make_scratch<TopKKey>(candidates.count * capacity);
  lists_.reserve(candidates.count);
  for (int64_t j = 0; j < candidates.count; ++j) {
    const Survivors& list = lists_.emplace_back(candidates, anchors, j, keys_.get() + j * capacity);
    floor_[j] = list.floor();
    upper_[j] = list.upper();
  }
}

int64_t ColumnLists::add(const uint32_t* columns, const float* scores, int64_t count, int64_t row,
                         Precision precision) {
  constexpr int64_t kAhead = 8;
  int64_t settled = 0;
  for (int64_t h = 0; h < count; ++h) {
    if (h + kAhead < count) __builtin_prefetch(&lists_[columns[h + kAhead]], 1);
    const int64_t column = columns[h];
    std::atomic<bool>& locked = locked_[column];
    lock(locked);
    Survivors& list = lists_[column];
    settled -= list.settled();
    list.add(scores[h], row, precision);
    std::atomic_ref(floor_[column]).store(list.floor(), std::memory_order_relaxed);
    settled += list.settled();
    locked.store(false, std::memory_order_release);
  }
  return settled;
}

}  // namespace aoq::cpu
