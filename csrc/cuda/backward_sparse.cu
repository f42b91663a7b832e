// The sparse backward pass.
#include "cuda/backward.cuh"

#include "cuda/launch_all.cuh"

namespace aoq::device {

template <class Element, Similarity kSimilarity>
void launch_one(BackwardParams<Element>& params, int64_t processors, cuda::Stream stream) {
  using Kernel = QuintupletBackward<Element, kSimilarity>;
  params.rows_per_block = backward_rows_per_block(params.rows, Kernel::kBlocksPerProcessor * processors);
  launch_all<Kernel>(params, stream);
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
