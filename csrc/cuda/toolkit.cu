// What the CUDA part was compiled with; the runtime is linked statically, so the toolkit need not be installed.
#include <cuda_runtime_api.h>

namespace aoq::cuda {

int toolkit_version() { return CUDART_VERSION; }

}  // namespace aoq::cuda
