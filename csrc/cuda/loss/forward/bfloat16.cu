// Forward kernels of bfloat16.
#include "cuda/loss/forward/scoring.cuh"

namespace aoq::device {

template struct Scoring<Arithmetic::kTensor, BFloat16>;

}  // namespace aoq::device
