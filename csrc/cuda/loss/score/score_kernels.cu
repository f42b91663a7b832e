// The kernels of a given score matrix.
#include "cuda/host/launch_all.cuh"
#include "cuda/loss/forward/walk_pass.cuh"
#include "cuda/loss/score/score_backward.cuh"
#include "cuda/loss/score/score_forward.cuh"

namespace aoq::device {

template <class Element>
void launch_score_anchors(const ScoreAnchors<Element>& params, cuda::Stream stream) {
  launch_all<ScoreAnchorsKernel<Element>>(params, stream);
}

template <class Element>
void launch_score_hardest(const ScoreHardestParams<Element>& params, cuda::Stream stream) {
  launch_all<ScoreHardestKernel<Element>>(params, stream);
}

template <class Element>
void launch_score_walk(const WalkParams<Element>& params, cuda::Stream stream) {
  launch_all<WalkKernel<GivenScores<Element>>>(params, stream);
}

template <class Element, bool kAll>
void launch_backward_of(const ScoreBackwardParams<Element>& params, cuda::Stream stream) {
  const auto is_aligned = [](const Element* rows) { return reinterpret_cast<uintptr_t>(rows) % kPieceBytes == 0; };
  if (params.slopes.anchors % kPieceSize<Element> == 0 && is_aligned(params.scores) && is_aligned(params.grad)) {
    launch_all<ScoreBackwardKernel<Element, kAll, true>>(params, stream);
  } else {
    launch_all<ScoreBackwardKernel<Element, kAll, false>>(params, stream);
  }
}

template <class Element>
void launch_score_backward(Online online, const ScoreBackwardParams<Element>& params, cuda::Stream stream) {
  if (online == Online::kAll) {
    launch_backward_of<Element, true>(params, stream);
  } else {
    launch_backward_of<Element, false>(params, stream);
  }
}

template void launch_score_anchors(const ScoreAnchors<BFloat16>&, cuda::Stream);
template void launch_score_anchors(const ScoreAnchors<Half>&, cuda::Stream);
template void launch_score_anchors(const ScoreAnchors<float>&, cuda::Stream);
template void launch_score_anchors(const ScoreAnchors<double>&, cuda::Stream);
template void launch_score_hardest(const ScoreHardestParams<BFloat16>&, cuda::Stream);
template void launch_score_hardest(const ScoreHardestParams<Half>&, cuda::Stream);
template void launch_score_hardest(const ScoreHardestParams<float>&, cuda::Stream);
template void launch_score_walk(const WalkParams<BFloat16>&, cuda::Stream);
template void launch_score_walk(const WalkParams<Half>&, cuda::Stream);
template void launch_score_walk(const WalkParams<float>&, cuda::Stream);
template void launch_score_walk(const WalkParams<double>&, cuda::Stream);
template void launch_score_backward(Online, const ScoreBackwardParams<BFloat16>&, cuda::Stream);
template void launch_score_backward(Online, const ScoreBackwardParams<Half>&, cuda::Stream);
template void launch_score_backward(Online, const ScoreBackwardParams<float>&, cuda::Stream);
template void launch_score_backward(Online, const ScoreBackwardParams<double>&, cuda::Stream);

}  // namespace aoq::device
