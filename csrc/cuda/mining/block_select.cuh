// What a block does with many keys in memory: finds the k-th greatest, moves some to the front, sorts some.
#pragma once

#include "cuda/device/warp.cuh"
#include "math/top_k_key.h"

namespace aoq::device {

inline constexpr int kDigitBits = 8, kDigits = 1 << kDigitBits;

template <int kThreads>
struct SelectShared {
  static constexpr int kWarps = kThreads / kWarpSize;

  uint32_t bins[kDigits];
  uint64_t least[kWarps], greatest[kWarps];
  uint32_t counted[kWarps];
  uint32_t digit, remaining;
  uint32_t kept[2][kWarps];  // two stretches in turn, so that one barrier a stretch is enough
};

// The keys as unsigned integers of the same order; 0 stands for no key.
AOQ_DEVICE uint64_t key_word(TopKKey key) { return uint64_t(key) ^ uint64_t(1) << 63; }
AOQ_DEVICE TopKKey word_key(uint64_t word) { return TopKKey(word ^ uint64_t(1) << 63); }

// Which digit, from the highest, the remaining-th greatest key is in; by one warp. Writes shared.digit and what
// remains.
template <int kThreads>
AOQ_DEVICE void choose_digit(uint32_t remaining, SelectShared<kThreads>& shared) {
  constexpr int kPerLane = kDigits / kWarpSize;
  const int lane = lane_index(), highest = kDigits - 1 - lane * kPerLane;
  uint32_t own = 0;
#pragma unroll
  for (int v = 0; v < kPerLane; ++v) own += shared.bins[highest - v];
  uint32_t reached = own;
#pragma unroll
  for (int step = 1; step < kWarpSize; step *= 2) {
    const uint32_t other = shuffle(reached, lane >= step ? lane - step : lane);
    reached += lane >= step ? other : 0;
  }
  uint32_t before = reached - own;
  if (before >= remaining || reached < remaining) return;
  int digit = highest;
  while (before + shared.bins[digit] < remaining) before += shared.bins[digit--];
  shared.digit = uint32_t(digit), shared.remaining = remaining - before;
}

// The k-th greatest of the words get(0), …, get(count − 1), 0 where fewer than k are not 0. All threads call it, with
// the same k ≥ 1, and get the same; a barrier has ordered what `get` reads.
template <int kThreads, class Get>
AOQ_DEVICE uint64_t kth_greatest(int64_t count, int64_t k, Get get, SelectShared<kThreads>& shared) {
  // The digits start at the highest bit in which words differ: the first has as many values as there are bins.
  uint64_t least = ~uint64_t(0), greatest = 0;
  uint32_t counted = 0;
  for (int64_t e = thread_index(); e < count; e += kThreads) {
    const uint64_t word = get(e);
    if (word == 0) continue;
    least = word < least ? word : least;
    greatest = word > greatest ? word : greatest;
    ++counted;
  }
  least = combine_lanes<1, kWarpSize / 2>(least, [](uint64_t a, uint64_t b) { return a < b ? a : b; });
  greatest = combine_lanes<1, kWarpSize / 2>(greatest, [](uint64_t a, uint64_t b) { return a > b ? a : b; });
  counted = warp_sum(counted);
  if (lane_index() == 0) {
    shared.least[warp_index()] = least, shared.greatest[warp_index()] = greatest;
    shared.counted[warp_index()] = counted;
  }
  sync_block();
  counted = 0;
  for (int w = 0; w < kThreads / kWarpSize; ++w) {
    least = shared.least[w] < least ? shared.least[w] : least;
    greatest = shared.greatest[w] > greatest ? shared.greatest[w] : greatest;
    counted += shared.counted[w];
  }
  if (int64_t(counted) < k) {
    sync_block();  // shared memory is free again
    return 0;
  }
  int bits = 0;  // in which words may differ
  while (bits < 64 && (greatest ^ least) >> bits != 0) ++bits;
  uint64_t found = bits < 64 ? greatest >> bits : 0;  // the higher bits
  auto remaining = uint32_t(k);
  for (int below = bits; below > 0;) {
    const int width = below < kDigitBits ? below : kDigitBits;
    const int shift = below - width;
    for (int b = thread_index(); b < kDigits; b += kThreads) shared.bins[b] = 0;
    sync_block();
    for (int64_t e = thread_index(); e < count; e += kThreads) {
      const uint64_t word = get(e);
      if (word == 0 || (below < 64 && word >> below != found)) continue;
      atomic_add(&shared.bins[(word >> shift) & ((1u << width) - 1)], 1);
    }
    sync_block();
    if (warp_index() == 0) choose_digit(remaining, shared);
    sync_block();
    found = found << width | shared.digit;
    remaining = shared.remaining;
    below = shift;
  }
  sync_block();
  return found;
}

// Moves the keys that `keep(key)` wants to the front, in their order; returns how many. The keys are in global memory;
// a barrier has ordered them.
template <int kThreads, class Keep>
AOQ_DEVICE int64_t keep_in_front(TopKKey* keys, int64_t count, Keep keep, SelectShared<kThreads>& shared) {
  const unsigned below = (1u << lane_index()) - 1;
  int64_t kept = 0;
  int turn = 0;
  for (int64_t start = 0; start < count; start += kThreads, turn ^= 1) {
    const int64_t e = start + thread_index();
    const TopKKey key = e < count ? keys[e] : 0;
    const bool wanted = e < count && keep(key);
    const unsigned votes = ballot(wanted);
    if (lane_index() == 0) shared.kept[turn][warp_index()] = uint32_t(popcount(votes));
    sync_block();  // every key of this stretch has been read
    uint32_t before = 0, all = 0;
    for (int w = 0; w < kThreads / kWarpSize; ++w) {
      before += w < warp_index() ? shared.kept[turn][w] : 0;
      all += shared.kept[turn][w];
    }
    if (wanted) keys[kept + before + popcount(votes & below)] = key;
    kept += all;
  }
  sync_block();
  return kept;
}

// Sorts `count` keys in shared memory, a power of two, the greatest first.
template <int kThreads>
AOQ_DEVICE void sort_in_shared(TopKKey* keys, int count) {
  for (int size = 2; size <= count; size *= 2) {
    for (int stride = size / 2; stride > 0; stride /= 2) {
      for (int e = thread_index(); e < count / 2; e += kThreads) {
        const int first = 2 * e - (e & (stride - 1)), second = first + stride;
        const TopKKey a = keys[first], b = keys[second];
        if ((a < b) == ((first & size) == 0)) keys[first] = b, keys[second] = a;
      }
      sync_block();
    }
  }
}

}  // namespace aoq::device
