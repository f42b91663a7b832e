// The kernels of mining that do not multiply.
#include "cuda/mining/small_kernels.cuh"

#include "cuda/host/launch_all.cuh"
#include "cuda/mining/merge.cuh"

namespace aoq::device {

template <Arithmetic kArithmetic, class Element>
void launch_bounds(const BoundsParams<Element>& params, cuda::Stream stream) {
  constexpr bool kTf32 = kArithmetic == Arithmetic::kTensor && std::is_same_v<Element, float>;
  launch_all<BoundsKernel<kTf32, Element>>(params, stream);
}

template <class Element>
void launch_merge(const MergeParams<Element>& params, cuda::Stream stream) {
  using Kernel = MergeKernel<Element>;
  cuda::launch<Kernel>(params.hits.lines.count, size_t(Kernel::shared_bytes(params)), stream, params);
}

void launch_guess(const GuessParams& params, cuda::Stream stream) {
  cuda::launch<GuessKernel>(params.lines.count, size_t(GuessKernel::shared_bytes(params)), stream, params);
}

void launch_limits(const LimitsParams& params, cuda::Stream stream) { launch_all<LimitsKernel>(params, stream); }
void launch_verdict(const VerdictParams& params, cuda::Stream stream) { launch_all<VerdictKernel>(params, stream); }
void launch_restore(const RestoreParams& params, cuda::Stream stream) { launch_all<RestoreKernel>(params, stream); }
void launch_clear(const ClearParams& params, cuda::Stream stream) { launch_all<ClearKernel>(params, stream); }

Failures read_failures(const uint32_t* counts, cuda::Stream stream) {
  Failures failures;
  cuda::read_back(failures.count, counts, stream);
  return failures;
}

template void launch_bounds<Arithmetic::kTensor>(const BoundsParams<BFloat16>&, cuda::Stream);
template void launch_bounds<Arithmetic::kTensor>(const BoundsParams<Half>&, cuda::Stream);
template void launch_bounds<Arithmetic::kTensor>(const BoundsParams<float>&, cuda::Stream);
template void launch_bounds<Arithmetic::kPlain>(const BoundsParams<float>&, cuda::Stream);
template void launch_merge(const MergeParams<BFloat16>&, cuda::Stream);
template void launch_merge(const MergeParams<Half>&, cuda::Stream);
template void launch_merge(const MergeParams<float>&, cuda::Stream);

}  // namespace aoq::device
