// Mining kernels of float32, multiplied as it is.
#include "cuda/mining/scan.cuh"

namespace aoq::device {

template struct MiningScan<Arithmetic::kPlain, float>;

}  // namespace aoq::device
