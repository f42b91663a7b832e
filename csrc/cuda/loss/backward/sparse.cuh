// The sparse backward pass. A block owns a range of rows: it lists the anchors that chose them, and sums each gradient
// row, in an order that does not depend on scheduling, from whole slices that a warp reads once for all gradients of
// the anchor. Rows that many chose, hubs, are left to a second launch, which shares each of them among blocks.
#pragma once

#include "cuda/host/launch_all.cuh"
#include "cuda/loss/backward/sparse_hubs.cuh"
#include "cuda/loss/backward/sparse_rows.cuh"

namespace aoq::device {

// The whole pass: one launch, or two where there may be hubs.
template <class Element, Similarity kSimilarity>
void run_backward(const BackwardParams<Element>& params, cuda::Stream stream) {
  launch_all<QuintupletBackward<Element, kSimilarity>>(params, stream);
  if (params.hubs.piece) launch_all<HubBackward<Element, kSimilarity>>(params, stream);
}

}  // namespace aoq::device
