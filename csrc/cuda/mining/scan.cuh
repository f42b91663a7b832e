// The kernels of mining that multiply: fast scores of a sample, and all fast scores with the hits among them appended.
#pragma once

#include "cuda/loss/forward/scoring.cuh"
#include "cuda/mining/hits.cuh"
#include "cuda/tile/order.cuh"

namespace aoq::device {

// Computes the tile of this block of the grid and calls use(scores, row, column) with it. Nothing scales the rows: the
// factors would take registers.
template <class Scores, class Use>
AOQ_DEVICE void with_tile(const Product<typename Scores::Element>& all, Use use) {
  using Config = typename Scores::Config;
  const TilePosition tile = grouped_tile(block_index(), tiles_along(all.left.count, Config::kRows),
                                         tiles_along(all.right.count, Config::kColumns));
  const int64_t row = tile.row * Config::kRows, column = tile.column * Config::kColumns;
  Scores scores;
  multiply<Config>({all.left, row, all.right, column, all.width}, all.width, scores);
  use(scores, row, column);
}

template <class Scores>
int64_t tiles_of(const Product<typename Scores::Element>& all) {
  return tiles_along(all.left.count, Scores::Config::kRows) * tiles_along(all.right.count, Scores::Config::kColumns);
}

template <class Scores>
struct SampleKernel {
  using Params = SampleParams<typename Scores::Element>;
  static constexpr int kThreads = Scores::Config::kThreads;
  static constexpr int kSharedBytes = Scores::Config::kSharedBytes;

  static int64_t blocks(const Params& p) { return tiles_of<Scores>(p.all); }

  AOQ_DEVICE static void run(const Params& p) {
    with_tile<Scores>(p.all, [&](const Scores& scores, int64_t row, int64_t column) {
#pragma unroll
      for (int i = 0; i < Scores::kRows; ++i) {
        const int64_t line = row + Scores::row(i);
#pragma unroll
        for (int j = 0; j < Scores::kColumns; ++j) {
          const int64_t place = column + Scores::column(j);
          if (line >= p.all.left.count || place >= p.all.right.count) continue;
          p.scores[line * p.all.right.count + place] = scores.at(i, j);
        }
      }
    });
  }
};

template <class Scores>
struct MiningHitsKernel {
  using Params = HitsParams<typename Scores::Element>;
  static constexpr int kThreads = Scores::Config::kThreads;
  static constexpr int kSharedBytes =
      std::max(Scores::Config::kSharedBytes, int(sizeof(HitQueue<typename Scores::Config>)));
  static constexpr int kBlocksPerProcessor = kThreads > 128 ? 1 : 2;

  static int64_t blocks(const Params& p) { return tiles_of<Scores>(p.all); }

  AOQ_DEVICE static void run(const Params& p) {
    with_tile<Scores>(p.all,
                      [&](const Scores& scores, int64_t row, int64_t column) { append_hits(scores, p, row, column); });
  }
};

// Calls launch with the scores of the tile size that suits a product.
template <Arithmetic kArithmetic, class Element, class Launch>
void with_tile_size(const Product<Element>& all, Launch launch) {
  using Ways = Way<kArithmetic, Element>;
  if (choose_tile_size(all.left.count, all.right.count) == TileSize::kLarge) {
    launch(std::type_identity<typename Ways::Large>{});
  } else {
    launch(std::type_identity<typename Ways::Middle>{});
  }
}

template <Arithmetic kArithmetic, class Element>
void MiningScan<kArithmetic, Element>::sample(const SampleParams<Element>& params, cuda::Stream stream) {
  with_tile_size<kArithmetic>(
      params.all, [&](auto scores) { launch_all<SampleKernel<typename decltype(scores)::type>>(params, stream); });
}

template <Arithmetic kArithmetic, class Element>
void MiningScan<kArithmetic, Element>::hits(const HitsParams<Element>& params, cuda::Stream stream) {
  with_tile_size<kArithmetic>(
      params.all, [&](auto scores) { launch_all<MiningHitsKernel<typename decltype(scores)::type>>(params, stream); });
}

}  // namespace aoq::device
