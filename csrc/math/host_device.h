// Mathematics is written once and compiled for host and device.
#pragma once

#if defined(__CUDACC__)
#define AOQ_HOST_DEVICE __host__ __device__ __forceinline__
#else
#define AOQ_HOST_DEVICE inline __attribute__((always_inline))
#endif
