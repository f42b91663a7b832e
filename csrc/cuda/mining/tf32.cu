// Mining kernels of float32, multiplied as TF32.
#include "cuda/mining/scan.cuh"

namespace aoq::device {

template struct MiningScan<Arithmetic::kTensor, float>;

}  // namespace aoq::device
