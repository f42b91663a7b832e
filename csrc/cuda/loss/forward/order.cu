// Forward kernels of order embeddings.
#include "cuda/loss/forward/scoring.cuh"

namespace aoq::device {

template struct Scoring<Arithmetic::kOrder, BFloat16>;
template struct Scoring<Arithmetic::kOrder, Half>;
template struct Scoring<Arithmetic::kOrder, float>;
template struct Scoring<Arithmetic::kOrder, double>;

}  // namespace aoq::device
