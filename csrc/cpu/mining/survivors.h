// The negatives that may still be among the k hardest of one row, kept in a buffer of fixed size.
#pragma once

#include <algorithm>
#include <cstdint>

#include "cpu/mining/filter.h"
#include "cpu/mining/side.h"

namespace aoq::cpu {

// Keys hold the scores of fast products and numbers of the other side's rows in this tile, until rescore_below() has
// made the scores exact. Whatever the order in which scores come, no row is lost that could be among the k hardest.
class Survivors {
 public:
  // `buffer` holds capacity(own, other, room) keys.
  Survivors(const MiningSide& own, const MiningSide& other, int64_t index, TopKKey* buffer);
  static int64_t capacity(const MiningSide& own, const MiningSide& other, int64_t room) {
    return crowd(own, other) + room + kFilterSlack;
  }

  // k negatives have a true score of at least this.
  float floor() const { return floor_; }
  // No negative has a product above this.
  float upper() const;

  // Takes in the products with the other side's rows [first, first + count), count ≤ room.
  void add(const float* scores, int64_t first, int64_t count, Precision precision);

  // Takes in one product; room ≥ 1.
  void add(float score, int64_t other, Precision precision);

  // Requests the memory that add() will write: the other lists' buffers have pushed it out of the cache.
  void prefetch() const;

  // How many exact scores it took so far to tell near-ties, and scores near the cap, apart.
  int64_t settled() const { return settled_; }

  // After the last add(): drops what it can, and brings the rest into the order of the other side's rows.
  void close();

  // Makes the scores of rows before `end` exact; in steps of ascending `end`, so that lists can take turns over rows
  // that are in the cache.
  void rescore_below(int64_t end);

  // After rescore_below(all): merges into the list that was known before.
  void write();

 private:
  // A buffer that holds more than this is shrunk before it takes more.
  static int64_t crowd(const MiningSide& own, const MiningSide& other) { return std::min(2 * own.k + 64, other.count); }

  const float* row() const { return own_.row(index_); }
  double error(Precision precision) const { return precision == Precision::kCoarse ? coarse_error_ : fine_error_; }
  void note(Precision precision);
  void drop_new_exclusions(int64_t from, Precision precision);
  bool may_exceed_cap(float score, Precision precision) const;
  void make_room();
  void raise_floor(int64_t most);
  void settle();

  const MiningSide &own_, &other_;
  int64_t index_;
  TopKKey* keys_;
  int64_t count_ = 0;
  int64_t exact_ = 0;        // the first keys, whose scores are exact
  bool has_coarse_ = false;  // among the others
  int64_t rescored_ = 0, settled_ = 0;
  double coarse_error_, fine_error_;
  float floor_;
};

}  // namespace aoq::cpu
