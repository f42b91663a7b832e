// Forward kernels of float32 where TF32 is allowed.
#include "cuda/loss/forward/scoring.cuh"

namespace aoq::device {

template struct Scoring<Arithmetic::kTensor, float>;

}  // namespace aoq::device
