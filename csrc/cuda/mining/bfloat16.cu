// Mining kernels of bfloat16.
#include "cuda/mining/scan.cuh"

namespace aoq::device {

template struct MiningScan<Arithmetic::kTensor, BFloat16>;

}  // namespace aoq::device
