// The small kernels around the walk over S: lengths of rows, choice of candidates, and results in the form that callers
// pass around.
#pragma once

#include <cmath>
#include <limits>

#include "cuda/device/element.cuh"
#include "cuda/device/warp.cuh"
#include "cuda/loss/online_negative.cuh"
#include "cuda/tile/choice.h"

namespace aoq::device {

inline constexpr int kPartThreads = 256;

constexpr int64_t part_blocks(int64_t count, int64_t per_block = kPartThreads) { return tiles_along(count, per_block); }

AOQ_DEVICE int64_t part_index() { return int64_t(block_index()) * kPartThreads + thread_index(); }

// scale[i] = 1 / |row i|, 0 for a zero row; a warp each
template <class Element>
struct ScalesKernel {
  using Params = ScalesParams<Element>;
  using T = Compute<Element>;
  static constexpr int kThreads = kPartThreads;
  static constexpr int kSharedBytes = 0;
  static constexpr int kWarps = kThreads / kWarpSize;

  static int64_t blocks(const Params& p) {
    int64_t blocks = 0;
    for (int i = 0; i < p.parts; ++i) blocks += part_blocks(p.part[i].count, kWarps);
    return blocks;
  }

  AOQ_DEVICE static void run(const Params& p) {
    int64_t block = block_index();
    int which = 0;
    while (block >= part_blocks(p.part[which].count, kWarps)) block -= part_blocks(p.part[which++].count, kWarps);
    const auto& part = p.part[which];
    const int64_t row = block * kWarps + warp_index();
    if (row >= part.count) return;
    const Element* values = part.data + row * part.stride;
    T sum = T(0);
    for (int64_t d = lane_index() * kPieceSize<Element>; d < p.width; d += kWarpSize * kPieceSize<Element>) {
      const Piece<Element> piece = load_piece(values + d);
#pragma unroll
      for (int e = 0; e < kPieceSize<Element>; ++e) {
        const T value = widen(piece.element[e]);
        sum = fused_multiply_add(value, value, sum);
      }
    }
    sum = warp_sum(sum);
    if (lane_index() == 0) part.scale[row] = sum == T(0) ? T(0) : T(1) / std::sqrt(sum);
  }
};

// The candidate that scores highest; ties to the lowest; NaN is highest.
template <class T>
struct ChooseKernel {
  using Params = ChooseParams<T>;
  static constexpr int kThreads = kPartThreads;
  static constexpr int kSharedBytes = 0;

  static int64_t blocks(const Params& p) { return part_blocks(2 * p.count); }

  AOQ_DEVICE static void run(const Params& p) {
    const int64_t entry = part_index();
    if (entry >= 2 * p.count) return;
    const int64_t i = entry % p.count;
    const auto& [scores, candidates, best] = p.direction[entry / p.count];
    int64_t chosen = 0;
    Key<T> best_key = kNoKey<T>;
    for (int64_t k = 0; k < candidates; ++k) {
      const Key<T> key = order_key(scores[i * candidates + k]);
      if (key > best_key) chosen = k, best_key = key;
    }
    p.choice[entry] = chosen;
    best[i] = scores[i * candidates + chosen];
  }
};

// Chunks of a walk, (chunks, 2, count) each, added in order into (2, count).
template <class T>
struct FoldKernel {
  using Params = FoldParams<T>;
  static constexpr int kThreads = kPartThreads;
  static constexpr int kSharedBytes = 0;

  static int64_t blocks(const Params& p) { return part_blocks(p.direction[0].count + p.direction[1].count); }

  AOQ_DEVICE static void run(const Params& p) {
    int64_t i = part_index();
    const bool second = i >= p.direction[0].count;
    if (second) i -= p.direction[0].count;
    const auto& [count, chunks, from, to] = p.direction[second];
    if (i >= count) return;
    OnlineNegative<T> sum = take_negative(from, count, i);
    for (int64_t c = 1; c < chunks; ++c) {
      const int64_t offset = c * 2 * count;
      const auto other = take_negative(StagedNegatives<T>{from.key + offset, from.hinge + offset}, count, i);
      if (other.key > sum.key) sum.key = other.key, sum.index = other.index;  // later chunks have higher indices
      sum.sum += other.sum, sum.active += other.active;
    }
    to.key[i] = sum.key;
    to.key[count + i] = sum.index;
    to.hinge[i] = sum.sum;
    to.hinge[count + i] = sum.active;
  }
};

// Packed keys, put back to "none", into the form of a walk; and either form into indices and scores.
template <class Negatives>
struct UnpackKernel {
  using Params = UnpackParams<Negatives>;
  using T = typename Negatives::T;
  static constexpr int kThreads = kPartThreads;
  static constexpr int kSharedBytes = 0;

  static int64_t blocks(const Params& p) { return part_blocks(p.direction[0].count + p.direction[1].count); }

  AOQ_DEVICE static void run(const Params& p) {
    int64_t i = part_index();
    const bool second = i >= p.direction[0].count;
    if (second) i -= p.direction[0].count;
    const auto& out = p.direction[second];
    if (i >= out.count) return;
    const OnlineNegative<T> negative = take_negative(out.from, out.count, i);
    if (out.staged.key) {
      out.staged.key[i] = negative.key;
      out.staged.key[out.count + i] = negative.index;
      out.staged.hinge[i] = negative.sum;
      out.staged.hinge[out.count + i] = negative.active;
    }
    if (out.index) {
      out.index[i] = negative.exists() ? negative.index : -1;
      out.score[i] = negative.exists() ? key_score<T>(negative.key) : -std::numeric_limits<T>::infinity();
    }
  }
};

}  // namespace aoq::device
