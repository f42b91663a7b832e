// What the mining kernels read and write, as plain structs, and the functions that launch them. Sizes and strides count
// elements. Free of torch and of device code.
//
// A tile of scores is anchors × candidates. Seen from one side, its rows are `lines`, each with a list of its k
// greatest keys, and the rows of the other side are `places` along them.
#pragma once

#include "cuda/loss/forward/forward_params.h"
#include "math/identity.h"
#include "math/top_k_bound.h"
#include "math/top_k_key.h"

namespace aoq::device {

inline constexpr int64_t kMostListed = 8192;   // the longest list, sorted in shared memory
inline constexpr int64_t kMostSampled = 8192;  // places, kept in shared memory

// Of tensor cores, in the place of kFloatUnit. An instruction adds b products and the accumulator at once: it shifts
// all of them to the exponent of the greatest and cuts them off below 24 bits, then cuts off the sum (Fasi, Higham,
// Mikaitis and Pranesh, "Numerical behavior of NVIDIA tensor cores", 2021; later ones keep more bits). That is at most
// b + 2 errors of 2⁻²³ of the magnitudes so far for b products, b ≥ 4: 1.5 · 2⁻²³ a product, with room to spare.
inline constexpr double kTensorUnit = 0x1p-22;

// Some rows of a side: first, first + step, first + 2 step, …; or those that `chosen` lists, from its entry `first` on.
struct Entries {
  int64_t first, step, count;
  const int64_t* chosen = nullptr;

  AOQ_HOST_DEVICE int64_t at(int64_t entry) const { return chosen ? chosen[first + entry] : first + entry * step; }
};

// The lists of one side, and what is known of each.
struct Lists {
  int64_t count, k;       // no lists where k = 0
  const float* caps;      // (count,) or null: no negative of a list scores higher
  const TopKKey* before;  // (count, k), sorted, greatest first
  TopKKey* keys;          // (count, k): the same with what was found so far
  TopKKey* floor;         // (count,): the k-th key of the result is no less
  float* guess;           // (count,): pairs whose fast score is less were not looked at; −∞ where that is certain
  uint32_t* failed;       // (count,): not 0 where hits were lost
  RowBound* bound;        // (count,): of the rows
  uint64_t* greatest;     // (2,): of all rows the greatest norm and the greatest distance, the bits of the doubles
};

template <class Element>
struct MiningSide {
  const Element* rows;  // 16-byte aligned
  int64_t stride;       // a multiple of 16 bytes
  int64_t first;        // the number of row 0 among all
  Identities identity;  // of both sides or of none
  Lists lists;
};

// Bounds of the rows of both sides, and lists of which nothing is known yet.
template <class Element>
struct BoundsParams {
  MiningSide<Element> side[2];
  int64_t width;
};

// Which fast scores of a line are looked at: least ≤ score ≤ most.
struct LimitsParams {
  Lists lists;
  Entries lines;
  const uint64_t* greatest;  // of the places
  int64_t width;
  double unit;
  float *least, *most;  // (lines,)
  uint32_t* found;      // (lines,): becomes 0
};

// Fast scores of lines × places.
template <class Element>
struct SampleParams {
  Product<Element> all;
  float* scores;  // (lines, places)
};

// The rank-th greatest fast score of each line's sample.
struct GuessParams {
  Lists lists;
  Entries lines, places;
  Identities line_identity, place_identity;
  int64_t rank;
  const float* scores;  // (lines, places)
};

// The pairs that were found for the lines of one side, in no particular order.
struct Hits {
  Entries lines;
  const float *least = nullptr, *most = nullptr;  // (lines,)
  uint32_t* found = nullptr;  // (lines,), also of those that there was no room for; null: this side has no lists
  TopKKey* keys = nullptr;    // (lines, capacity): fast score, row of the other side
  int64_t capacity = 0;
};

template <class Element>
struct HitsParams {
  Product<Element> all;  // of anchors and candidates, or the other way round
  Hits rows, columns;
  Identities row_identity, column_identity;
};

// Merges hits into lists.
template <class Element>
struct MergeParams {
  MiningSide<Element> line, place;
  int64_t width;
  double unit;
  Hits hits;
  int64_t padded_k;  // a power of two, at least k
};

// Which lists lack keys: they get a floor.
struct VerdictParams {
  Lists lists;
  const uint64_t* greatest;  // of the places
  int64_t width;
  double unit;
  int64_t* chosen;  // (count,): those that do, in no particular order
  uint32_t* count;
};

// lists.keys = lists.before for some lines
struct RestoreParams {
  Lists lists;
  Entries lines;
};

// How many lists have to be mined again, of each side.
struct Failures {
  uint32_t count[2];
};

struct ClearParams {
  uint32_t* words;
  int64_t count;
};

// How far the fast product of a list's row and any place can be from their score.
AOQ_HOST_DEVICE double list_error(int64_t width, double unit, const RowBound& line, const uint64_t* greatest) {
  return product_error(width, unit, line, {std::bit_cast<double>(greatest[0]), std::bit_cast<double>(greatest[1])});
}

template <Arithmetic kArithmetic, class Element>
struct MiningScan {
  static void sample(const SampleParams<Element>& params, cuda::Stream stream);
  static void hits(const HitsParams<Element>& params, cuda::Stream stream);
};

template <Arithmetic kArithmetic, class Element>
void launch_bounds(const BoundsParams<Element>& params, cuda::Stream stream);
template <class Element>
void launch_merge(const MergeParams<Element>& params, cuda::Stream stream);
void launch_limits(const LimitsParams& params, cuda::Stream stream);
void launch_guess(const GuessParams& params, cuda::Stream stream);
void launch_verdict(const VerdictParams& params, cuda::Stream stream);
void launch_restore(const RestoreParams& params, cuda::Stream stream);
void launch_clear(const ClearParams& params, cuda::Stream stream);
Failures read_failures(const uint32_t* counts, cuda::Stream stream);  // waits for the stream

}  // namespace aoq::device
