// Forward kernels of float32 and float64.
#include "cuda/loss/forward/scoring.cuh"

namespace aoq::device {

template struct Scoring<Arithmetic::kPlain, float>;
template struct Scoring<Arithmetic::kPlain, double>;

}  // namespace aoq::device
