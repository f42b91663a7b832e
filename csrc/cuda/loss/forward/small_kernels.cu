// The small kernels of the forward pass.
#include "cuda/loss/forward/small_kernels.cuh"

#include "cuda/host/launch_all.cuh"
#include "cuda/loss/finish.cuh"

namespace aoq::device {
template <class Negatives>
void launch_finish(const FinishParams<Negatives>& params, cuda::Stream stream) {
  launch_all<FinishKernel<Negatives>>(params, stream);
}

template <class T>
void launch_fold(const FoldParams<T>& params, cuda::Stream stream) {
  launch_all<FoldKernel<T>>(params, stream);
}

template <class Negatives>
void launch_unpack(const UnpackParams<Negatives>& params, cuda::Stream stream) {
  launch_all<UnpackKernel<Negatives>>(params, stream);
}

template <class T>
void launch_choose(const ChooseParams<T>& params, cuda::Stream stream) {
  launch_all<ChooseKernel<T>>(params, stream);
}

template <class Element>
void launch_scales(const ScalesParams<Element>& params, cuda::Stream stream) {
  launch_all<ScalesKernel<Element>>(params, stream);
}

template void launch_finish(const FinishParams<PackedNegatives>&, cuda::Stream);
template void launch_finish(const FinishParams<StagedNegatives<float>>&, cuda::Stream);
template void launch_finish(const FinishParams<StagedNegatives<double>>&, cuda::Stream);
template void launch_fold(const FoldParams<float>&, cuda::Stream);
template void launch_fold(const FoldParams<double>&, cuda::Stream);
template void launch_unpack(const UnpackParams<PackedNegatives>&, cuda::Stream);
template void launch_unpack(const UnpackParams<StagedNegatives<float>>&, cuda::Stream);
template void launch_unpack(const UnpackParams<StagedNegatives<double>>&, cuda::Stream);
template void launch_choose(const ChooseParams<float>&, cuda::Stream);
template void launch_choose(const ChooseParams<double>&, cuda::Stream);
template void launch_scales(const ScalesParams<BFloat16>&, cuda::Stream);
template void launch_scales(const ScalesParams<Half>&, cuda::Stream);
template void launch_scales(const ScalesParams<float>&, cuda::Stream);
template void launch_scales(const ScalesParams<double>&, cuda::Stream);

}  // namespace aoq::device
