// Forward kernels of float16.
#include "cuda/loss/forward/scoring.cuh"

namespace aoq::device {

template struct Scoring<Arithmetic::kTensor, Half>;

}  // namespace aoq::device
