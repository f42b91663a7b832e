// The inverse of the argmax maps: which anchors chose each row of a block's range, in ascending order of anchors.
#pragma once

#include "cuda/device/warp.cuh"
#include "cuda/loss/backward/backward_params.h"

namespace aoq::device {

// An image row is chosen by texts, a text row by images; `chosen` is (C,) and slope the derivative by that choice.
struct ChoiceMap {
  const int64_t* chosen;
  SavedRow slope;
};

// ∂loss/∂(a score that anchor c depends on).
template <class T>
AOQ_DEVICE T loss_slope(const LossSlopes<T>& slopes, SavedRow row, int64_t anchor) {
  return slopes.grad[anchor * slopes.stride] / slopes.divisor * slopes.saved[row * slopes.anchors + anchor];
}

template <class T, int kThreads>
struct Choosers {
  static constexpr int kWarps = kThreads / kWarpSize;
  static constexpr int kPerLane = 4;                 // entries of a map that a lane reads at a time
  static constexpr int kTile = kThreads * kPerLane;  // and a block
  static constexpr int kCapacity = 1024;
  static_assert(kCapacity >= kTile);  // from empty lists, there is always progress
  static constexpr int kMaxRows = kThreads;

  // In shared memory, one for each of the two maps.
  struct List {
    uint16_t found_row[kCapacity];  // as found: by anchor
    int found_anchor[kCapacity];
    T found_slope[kCapacity];
    int anchor[kCapacity];  // sorted: by row, then anchor
    T scale[kCapacity];     // the slope, and later the factor of the chooser's row
    int start[kMaxRows + 1];

    AOQ_DEVICE T* own_scale() { return found_slope; }  // once sorted: the factor of the row itself that a chooser adds
  };

  struct Shared {
    List list[2];
    int warp_count[2][2][kWarps];  // two tiles in turn, so that one barrier a tile is enough
    uint32_t count[2][kMaxRows];   // of active choosers, where they were counted

    AOQ_DEVICE bool is_hub(int map, int row) const { return count[map][row] > kHub; }
  };

  // The anchors from, …, to − 1. Their choices may be counted, whether or not there is room to list them, and rows that
  // were counted as hubs may be left out.
  struct Range {
    int64_t from, to;
    bool counts = false, without_hubs = false;
  };

  // Lists the active choosers among a range of anchors of the rows that belong to anchors first, …, first + rows − 1.
  // Returns the anchor it came to: range.to, unless a list is full. All threads call it.
  AOQ_DEVICE static int64_t collect(const LossSlopes<T>& slopes, const ChoiceMap (&maps)[2], int64_t first, int rows,
                                    Range range, Shared& shared, int (&found)[2]) {
    const int lane = lane_index(), warp = warp_index();
    const unsigned below = (1u << lane) - 1;
    found[0] = found[1] = 0;
    int row[2][kPerLane], next[2][kPerLane];  // of the range, or −1; the next tile is asked for ahead
    read(maps, first, rows, range, range.from, shared, next);
    int64_t reached = range.to;
    int turn = 0;
    for (int64_t tile = range.from; tile < range.to; tile += kTile, turn ^= 1) {
      unsigned hits[2][kPerLane];
      T slope[2][kPerLane];
#pragma unroll
      for (int map = 0; map < 2; ++map) {
        int count = 0;
#pragma unroll
        for (int n = 0; n < kPerLane; ++n) {
          row[map][n] = next[map][n];
          slope[map][n] = row[map][n] >= 0 ? loss_slope(slopes, maps[map].slope, entry(tile, n)) : T(0);
          hits[map][n] = ballot(slope[map][n] != T(0));
          if (range.counts && slope[map][n] != T(0)) atomic_add(&shared.count[map][row[map][n]], 1);
          count += popcount(hits[map][n]);
        }
        if (lane == 0) shared.warp_count[turn][map][warp] = count;
      }
      read(maps, first, rows, range, tile + kTile, shared, next);
      sync_block();
      int before[2] = {0, 0}, total[2] = {0, 0};
#pragma unroll
      for (int map = 0; map < 2; ++map) {
        for (int w = 0; w < kWarps; ++w) {
          const int count = shared.warp_count[turn][map][w];
          before[map] += w < warp ? count : 0;
          total[map] += count;
        }
      }
      const bool is_full = found[0] + total[0] > kCapacity || found[1] + total[1] > kCapacity;
      if (is_full && reached == range.to) reached = tile;
      if (reached < range.to) {
        if (range.counts) continue;
        break;
      }
#pragma unroll
      for (int map = 0; map < 2; ++map) {
        List& list = shared.list[map];
        int position = found[map] + before[map];
#pragma unroll
        for (int n = 0; n < kPerLane; ++n) {
          if (hits[map][n] >> lane & 1) {
            const int at = position + popcount(hits[map][n] & below);
            list.found_row[at] = uint16_t(row[map][n]);
            list.found_anchor[at] = int(entry(tile, n));
            list.found_slope[at] = slope[map][n];
          }
          position += popcount(hits[map][n]);
        }
        found[map] += total[map];
      }
    }
    sync_block();
    return reached;
  }

  AOQ_DEVICE static void clear_counts(Shared& shared) {
    for (int row = thread_index(); row < kMaxRows; row += kThreads) shared.count[0][row] = shared.count[1][row] = 0;
    sync_block();
  }

  // Sorts what was found; list.start[r], …, list.start[r + 1] − 1 are then the choosers of row r.
  AOQ_DEVICE static void sort(Shared& shared, int rows, const int (&found)[2]) {
#pragma unroll
    for (int map = 0; map < 2; ++map) {
      List& list = shared.list[map];
      for (int e = thread_index(); e < found[map]; e += kThreads) {
        const int row = list.found_row[e];
        int position = rows == 1 ? e : 0;
        for (int other = 0; rows > 1 && other < found[map]; ++other) {
          position += list.found_row[other] < row + (other < e ? 1 : 0);
        }
        list.anchor[position] = list.found_anchor[e];
        list.scale[position] = list.found_slope[e];
      }
      for (int row = thread_index(); row <= rows; row += kThreads) {
        int position = rows == 1 ? row * found[map] : 0;
        for (int other = 0; rows > 1 && other < found[map]; ++other) position += list.found_row[other] < row;
        list.start[row] = position;
      }
    }
    sync_block();
  }

 private:
  // A warp reads consecutive entries, 32 at a time, so that the order of ballots is that of anchors.
  AOQ_DEVICE static int64_t entry(int64_t tile, int n) {
    return tile + (warp_index() * kPerLane + n) * kWarpSize + lane_index();
  }

  AOQ_DEVICE static void read(const ChoiceMap (&maps)[2], int64_t first, int rows, const Range& range, int64_t tile,
                              const Shared& shared, int (&row)[2][kPerLane]) {
#pragma unroll
    for (int map = 0; map < 2; ++map) {
#pragma unroll
      for (int n = 0; n < kPerLane; ++n) {
        const int64_t anchor = entry(tile, n);
        const int64_t chosen = maps[map].chosen && anchor < range.to ? maps[map].chosen[anchor] - first : -1;
        const bool is_listed = chosen >= 0 && chosen < rows && !(range.without_hubs && shared.is_hub(map, int(chosen)));
        row[map][n] = is_listed ? int(chosen) : -1;
      }
    }
  }
};

}  // namespace aoq::device
