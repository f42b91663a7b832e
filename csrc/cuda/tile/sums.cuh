// Reduces tiles along their lines, in order: the hardest negative of each line, and for Online::kAll the sum of the
// hinges of all and the number of active ones.
#pragma once

#include "cuda/loss/online_negative.cuh"
#include "cuda/tile/lines.cuh"
#include "cuda/tile/masks.cuh"

namespace aoq::device {

template <class T>
struct LineState {
  Key<T> key = kNoKey<T>;
  int32_t index = -1;
  T sum = T(0), active = T(0);

  AOQ_DEVICE void add_score(T score, int32_t place) {
    const Key<T> other = order_key(score);
    if (other > key) key = other, index = place;  // places come in ascending order: the lowest wins
  }

  AOQ_DEVICE void add_hinge(T value) { sum += hinge(value), active += hinge_slope(value); }

  AOQ_DEVICE void add(const LineState& other) {
    if (other.key > key || (other.key == key && other.index < index)) key = other.key, index = other.index;
    sum += other.sum, active += other.active;
  }
};

template <class T>
AOQ_DEVICE LineState<T> shuffle_state(const LineState<T>& state, int lane_mask) {
  LineState<T> other;
  other.key = shuffle_xor(state.key, lane_mask);
  other.index = shuffle_xor(state.index, lane_mask);
  other.sum = shuffle_xor(state.sum, lane_mask);
  other.active = shuffle_xor(state.active, lane_mask);
  return other;
}

// The lines of a tile.
template <class T>
struct LineRules {
  const T* positive;  // of the first line, or null
  int64_t lines;      // that exist from the first on
  Online online;
  T margin;
};

// What one thread knows of its lines.
template <class Along, class T>
class LineStates {
 public:
  // Adds a masked tile, whose first entry along a line is anchor `first_place`.
  template <class Scores>
  AOQ_DEVICE void add(const Scores& scores, const LineRules<T>& rules, int64_t first_place) {
#pragma unroll
    for (int i = 0; i < Along::kLines; ++i) {
      const int line = Along::line(i);
      const T positive = rules.positive && line < rules.lines ? rules.positive[line] : T(0);
#pragma unroll
      for (int j = 0; j < Along::kPlaces; ++j) {
        const T score = Along::at(scores, i, j);
        const bool masked = score == kMasked<T> || (rules.online == Online::kSemihard && score >= positive);
        if (masked) continue;
        states_[i].add_score(score, int32_t(first_place) + Along::place(j));
        if (rules.online == Online::kAll) states_[i].add_hinge(rules.margin + score - positive);
      }
    }
  }

  // Writes the block's states of its lines, the first of which is `first_line` of `count`. `shared` is free.
  AOQ_DEVICE void store(const StagedNegatives<T>& out, int64_t count, int64_t first_line, char* shared) {
    auto* states = reinterpret_cast<LineState<T>*>(shared);  // (kTileLines, kWarps)
#pragma unroll
    for (int i = 0; i < Along::kLines; ++i) {
#pragma unroll
      for (int bit = Along::kFirstLane; bit <= Along::kLastLane; bit *= 2)
        states_[i].add(shuffle_state(states_[i], bit));
      if (Along::leads()) states[Along::line(i) * Along::kWarps + Along::warp()] = states_[i];
    }
    sync_block();
    const int line = thread_index();
    if (line >= Along::kTileLines || first_line + line >= count) return;
    LineState<T> state = states[line * Along::kWarps];
    for (int warp = 1; warp < Along::kWarps; ++warp) state.add(states[line * Along::kWarps + warp]);
    out.key[first_line + line] = state.key;
    out.key[count + first_line + line] = state.index;
    out.hinge[first_line + line] = state.sum;
    out.hinge[count + first_line + line] = state.active;
  }

 private:
  LineState<T> states_[Along::kLines];
};

}  // namespace aoq::device
