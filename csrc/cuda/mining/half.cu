// Mining kernels of float16.
#include "cuda/mining/scan.cuh"

namespace aoq::device {

template struct MiningScan<Arithmetic::kTensor, Half>;

}  // namespace aoq::device
