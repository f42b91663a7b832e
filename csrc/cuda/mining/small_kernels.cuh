// The small kernels of mining: bounds of rows, limits of lines, and which lists are complete.
#pragma once

#include "cuda/device/element.cuh"
#include "cuda/loss/forward/small_kernels.cuh"
#include "cuda/mining/block_select.cuh"
#include "cuda/mining/mining_params.h"
#include "math/round_outward.h"

namespace aoq::device {

inline constexpr float kNoGuess = -std::numeric_limits<float>::infinity();

// A warp for each row of both sides.
template <bool kTf32, class Element>
struct BoundsKernel {
  using Params = BoundsParams<Element>;
  static constexpr int kThreads = kPartThreads;
  static constexpr int kSharedBytes = 0;
  static constexpr int kWarps = kThreads / kWarpSize;

  static int64_t blocks(const Params& p) {
    return part_blocks(p.side[0].lists.count, kWarps) + part_blocks(p.side[1].lists.count, kWarps);
  }

  AOQ_DEVICE static void run(const Params& p) {
    const int64_t first = part_blocks(p.side[0].lists.count, kWarps), block = block_index();
    const MiningSide<Element>& side = p.side[block < first ? 0 : 1];
    const int64_t row = (block < first ? block : block - first) * kWarps + warp_index();
    if (row >= side.lists.count) return;
    double square = 0, off = 0;
    for (int64_t d = lane_index() * kPieceSize<Element>; d < p.width; d += kWarpSize * kPieceSize<Element>) {
      const Piece<Element> piece = load_piece(side.rows + row * side.stride + d);
#pragma unroll
      for (int v = 0; v < kPieceSize<Element>; ++v) {
        const float value = widen(piece.element[v]);
        const double wide = double(value);
        square += wide * wide;
        if constexpr (kTf32) {
          const double difference = wide - double(std::bit_cast<float>(to_tf32(value)));
          off += difference * difference;
        }
      }
    }
    square = warp_sum(square), off = warp_sum(off);
    if (lane_index() != 0) return;
    const RowBound bound{std::sqrt(square), std::sqrt(off)};
    side.lists.bound[row] = bound;
    side.lists.floor[row] = kNoTopKKey, side.lists.guess[row] = kNoGuess, side.lists.failed[row] = 0;
    raise(side.lists.greatest, bound.norm);
    raise(side.lists.greatest + 1, bound.distance);
  }

 private:
  // Bits of doubles that are not negative are in the order of these. Few rows are the greatest so far.
  AOQ_DEVICE static void raise(uint64_t* greatest, double value) {
    const auto bits = std::bit_cast<uint64_t>(value);
    if (bits > load_relaxed(greatest)) atomic_max(greatest, bits);
  }
};

struct LimitsKernel {
  using Params = LimitsParams;
  static constexpr int kThreads = kPartThreads;
  static constexpr int kSharedBytes = 0;

  static int64_t blocks(const Params& p) { return part_blocks(p.lines.count); }

  AOQ_DEVICE static void run(const Params& p) {
    const int64_t line = part_index();
    if (line >= p.lines.count) return;
    const int64_t i = p.lines.at(line);
    const TopKKey last = p.lists.keys[i * p.lists.k + p.lists.k - 1], floor = p.lists.floor[i];
    const TopKKey reached = last > floor ? last : floor;
    const double error = list_error(p.width, p.unit, p.lists.bound[i], p.greatest);
    const float certain = reached == kNoTopKKey ? kNoGuess : float_below(double(top_k_score(reached)) - error);
    const float guess = p.lists.guess ? p.lists.guess[i] : kNoGuess;
    p.least[line] = certain > guess ? certain : guess;
    p.most[line] = p.lists.caps ? float_above(double(p.lists.caps[i]) + error) : std::numeric_limits<float>::infinity();
    p.found[line] = 0;
  }
};

// A block for each line.
struct GuessKernel {
  using Params = GuessParams;
  static constexpr int kThreads = 128;
  using Shared = SelectShared<kThreads>;
  static constexpr int kScoresOffset = (int(sizeof(Shared)) + 15) / 16 * 16;

  static constexpr int kSharedBytes = kScoresOffset + int(kMostSampled * sizeof(float));

  static int64_t shared_bytes(const Params& p) { return kScoresOffset + p.places.count * int64_t(sizeof(float)); }

  AOQ_DEVICE static void run(const Params& p) {
    Shared& shared = *reinterpret_cast<Shared*>(shared_memory());
    auto* const words = reinterpret_cast<uint32_t*>(shared_memory() + kScoresOffset);
    const int64_t line = block_index(), i = p.lines.at(line), places = p.places.count;
    const float cap = p.lists.caps ? p.lists.caps[i] : std::numeric_limits<float>::infinity();
    for (int64_t e = thread_index(); e < places; e += kThreads) {
      const float score = p.scores[line * places + e];
      const bool counts = score <= cap && !belong_together(p.line_identity, i, p.place_identity, p.places.at(e));
      words[e] = counts ? biased_key(score) : 0;
    }
    sync_block();
    const uint64_t word = kth_greatest<kThreads>(places, p.rank, [&](int64_t e) { return uint64_t(words[e]); }, shared);
    if (thread_index() == 0) {
      p.lists.guess[i] = word == 0 ? kNoGuess : key_score<float>(int32_t(uint32_t(word) ^ 0x80000000u));
    }
  }
};

// A pair that was not looked at because of a guess scores less than guess + error.
struct VerdictKernel {
  using Params = VerdictParams;
  static constexpr int kThreads = kPartThreads;
  static constexpr int kSharedBytes = 0;

  static int64_t blocks(const Params& p) { return part_blocks(p.lists.count); }

  AOQ_DEVICE static void run(const Params& p) {
    const int64_t i = part_index();
    if (i >= p.lists.count) return;
    const TopKKey last = p.lists.keys[i * p.lists.k + p.lists.k - 1];
    bool complete = p.lists.failed[i] == 0;
    if (complete && p.lists.guess[i] != kNoGuess) {
      const double error = list_error(p.width, p.unit, p.lists.bound[i], p.greatest);
      const float beyond = float_above(double(p.lists.guess[i]) + error);
      complete = last != kNoTopKKey && top_k_score(last) >= beyond;
    }
    if (complete) return;
    p.lists.floor[i] = last;
    p.chosen[atomic_add(p.count, 1)] = i;
  }
};

struct RestoreKernel {
  using Params = RestoreParams;
  static constexpr int kThreads = kPartThreads;
  static constexpr int kSharedBytes = 0;

  static int64_t blocks(const Params& p) { return part_blocks(p.lines.count * p.lists.k); }

  AOQ_DEVICE static void run(const Params& p) {
    const int64_t e = part_index();
    if (e >= p.lines.count * p.lists.k) return;
    const int64_t at = p.lines.at(e / p.lists.k) * p.lists.k + e % p.lists.k;
    p.lists.keys[at] = p.lists.before[at];
  }
};

struct ClearKernel {
  using Params = ClearParams;
  static constexpr int kThreads = kPartThreads;
  static constexpr int kSharedBytes = 0;

  static int64_t blocks(const Params& p) { return part_blocks(p.count); }

  AOQ_DEVICE static void run(const Params& p) {
    if (part_index() < p.count) p.words[part_index()] = 0;
  }
};

}  // namespace aoq::device
