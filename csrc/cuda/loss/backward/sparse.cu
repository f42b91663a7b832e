// The sparse backward pass.
#include <algorithm>

#include "cuda/loss/backward/sparse.cuh"

namespace aoq::device {

template <class Element, Similarity kSimilarity>
void launch_one(BackwardParams<Element>& params, int64_t processors, cuda::Stream stream) {
  const int64_t blocks_at_a_time = QuintupletBackward<Element, kSimilarity>::kBlocksPerProcessor * processors;
  params.rows_per_block = backward_rows_per_block(params.rows, blocks_at_a_time);
  params.hubs.blocks = std::min(most_hub_pieces(params.slopes.anchors), blocks_at_a_time);
  run_backward<Element, kSimilarity>(params, stream);
}

template <class Element>
void launch_backward(Similarity similarity, BackwardParams<Element> params, int64_t processors, cuda::Stream stream) {
  switch (similarity) {
    case Similarity::kDot: return launch_one<Element, Similarity::kDot>(params, processors, stream);
    case Similarity::kCosine: return launch_one<Element, Similarity::kCosine>(params, processors, stream);
    case Similarity::kOrder: return launch_one<Element, Similarity::kOrder>(params, processors, stream);
  }
}

template void launch_backward(Similarity, BackwardParams<BFloat16>, int64_t, cuda::Stream);
template void launch_backward(Similarity, BackwardParams<Half>, int64_t, cuda::Stream);
template void launch_backward(Similarity, BackwardParams<float>, int64_t, cuda::Stream);
template void launch_backward(Similarity, BackwardParams<double>, int64_t, cuda::Stream);

}  // namespace aoq::device
