// Forward kernels of float32 where TF32 is allowed.
#include "cuda/forward_scoring.cuh"

namespace aoq::device {

template struct Scoring<Arithmetic::kTensor, float>;

}  // namespace aoq::device
