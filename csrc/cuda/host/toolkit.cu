// The CUDA runtime linked into this library, as 1000·major + 10·minor; read by aoq_ext.build_info().
#include <cuda_runtime_api.h>

extern "C" __attribute__((visibility("default"))) int aoq_cuda_runtime_version() { return CUDART_VERSION; }
