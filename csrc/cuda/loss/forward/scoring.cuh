// Which kernels compute the scores of an element type by an arithmetic, and their launches.
#pragma once

#include "cuda/host/launch_all.cuh"
#include "cuda/loss/forward/hardest_pass.cuh"
#include "cuda/loss/forward/walk_pass.cuh"
#include "cuda/tile/fma.cuh"
#include "cuda/tile/mma.cuh"

namespace aoq::device {

template <Arithmetic kArithmetic, class Element>
struct Way {  // kPlain and kOrder
  using Term = std::conditional_t<kArithmetic == Arithmetic::kOrder, OrderTerm, DotTerm>;
  using Small = PlainScores<FmaSmall, Element, Term>;
  using Middle = PlainScores<FmaMiddle, Element, Term>;
  using Large = std::conditional_t<kArithmetic == Arithmetic::kOrder, Middle, PlainScores<FmaLarge, Element, Term>>;
  template <int kThreads>
  using Diagonal = PlainDiagonal<kThreads, Element, Term>;
};

template <class Element>
struct Way<Arithmetic::kTensor, Element> {
  using Small = TensorScores<MmaSmall, Element>;
  using Middle = TensorScores<MmaMiddle, Element>;
  using Large = TensorScores<MmaLarge, Element>;
  template <int kThreads>
  using Diagonal = TensorDiagonal<kThreads, Element>;
};

template <class Way, class Scores, class Element>
void launch_hardest(const HardestParams<Element>& params, cuda::Stream stream) {
  launch_all<HardestKernel<Scores, typename Way::template Diagonal<Scores::Config::kThreads>>>(params, stream);
}

template <Arithmetic kArithmetic, class Element>
void Scoring<kArithmetic, Element>::pairs(const PairScores<Element>& params, cuda::Stream stream) {
  launch_all<PairsKernel<typename Way<kArithmetic, Element>::template Diagonal<128>>>(params, stream);
}

template <Arithmetic kArithmetic, class Element>
void Scoring<kArithmetic, Element>::hardest(const HardestParams<Element>& params, cuda::Stream stream) {
  using Ways = Way<kArithmetic, Element>;
  if constexpr (!std::is_same_v<Element, double>) {
    switch (choose_tile_size(params.rules.rows, params.rules.columns)) {
      case TileSize::kSmall: return launch_hardest<Ways, typename Ways::Small>(params, stream);
      case TileSize::kMiddle: return launch_hardest<Ways, typename Ways::Middle>(params, stream);
      case TileSize::kLarge: return launch_hardest<Ways, typename Ways::Large>(params, stream);
    }
  }
}

template <Arithmetic kArithmetic, class Element>
void Scoring<kArithmetic, Element>::walk(const WalkParams<Element>& params, cuda::Stream stream) {
  launch_all<WalkKernel<typename Way<kArithmetic, Element>::Middle>>(params, stream);
}

}  // namespace aoq::device
