// The backward pass of all negatives.
#include "cuda/loss/backward/all_negatives.cuh"

#include "cuda/loss/forward/scoring.cuh"

namespace aoq::device {

template <class Element>
void launch_order_dense(const OrderDenseParams<Element>& params, cuda::Stream stream) {
  launch_all<OrderDenseKernel<Element>>(params, stream);
}

template <Arithmetic kArithmetic, class Element>
void Slopes<kArithmetic, Element>::all(const AllSlopesParams<Element>& params, cuda::Stream stream) {
  using Scores = typename Way<kArithmetic, Element>::Middle;
  launch_all<AllSlopesKernel<Scores, kArithmetic == Arithmetic::kOrder>>(params, stream);
}

template void launch_order_dense(const OrderDenseParams<BFloat16>&, cuda::Stream);
template void launch_order_dense(const OrderDenseParams<Half>&, cuda::Stream);
template void launch_order_dense(const OrderDenseParams<float>&, cuda::Stream);
template void launch_order_dense(const OrderDenseParams<double>&, cuda::Stream);

template struct Slopes<Arithmetic::kPlain, float>;
template struct Slopes<Arithmetic::kPlain, double>;
template struct Slopes<Arithmetic::kTensor, BFloat16>;
template struct Slopes<Arithmetic::kTensor, Half>;
template struct Slopes<Arithmetic::kTensor, float>;
template struct Slopes<Arithmetic::kOrder, BFloat16>;
template struct Slopes<Arithmetic::kOrder, Half>;
template struct Slopes<Arithmetic::kOrder, float>;
template struct Slopes<Arithmetic::kOrder, double>;

}  // namespace aoq::device
