// Every intrinsic, every line of PTX and every special variable that the kernels use, behind named functions. A kernel
// includes nothing else of CUDA, so that the emulator (tests/simt), which has a twin of each function, can run it.
// Blocks and grids are one-dimensional, and blocks are whole warps.
#pragma once

#include <cstdint>
#include <type_traits>

namespace aoq::device {

inline constexpr int kWarpSize = 32;
inline constexpr unsigned kFullMask = 0xffffffffu;

struct BFloat16;  // both in element.cuh; here they only choose an instruction
struct Half;

}  // namespace aoq::device

#if defined(AOQ_SIMT)

#include "simt/primitives.h"

#else

#define AOQ_DEVICE __device__ __forceinline__

namespace aoq::device {

AOQ_DEVICE int thread_index() { return static_cast<int>(threadIdx.x); }
AOQ_DEVICE int lane_index() { return static_cast<int>(threadIdx.x % kWarpSize); }
AOQ_DEVICE int warp_index() { return static_cast<int>(threadIdx.x / kWarpSize); }
AOQ_DEVICE unsigned block_index() { return blockIdx.x; }
AOQ_DEVICE unsigned block_count() { return gridDim.x; }

// The dynamic shared memory of the launch, 128-byte aligned; kernels use no other.
AOQ_DEVICE char* shared_memory() {
  extern __shared__ __align__(128) char aoq_shared_memory[];
  return aoq_shared_memory;
}

// Barriers: reached by every thread of the block, of the mask; they order the memory accesses of these threads.
AOQ_DEVICE void sync_block() { __syncthreads(); }
AOQ_DEVICE void sync_warp(unsigned mask = kFullMask) { __syncwarp(mask); }

// Exchanges within a warp, reached by every lane of the mask, which holds the source lanes too. They order no memory.
template <class T>
AOQ_DEVICE T shuffle(T value, int source, unsigned mask = kFullMask) {
  return __shfl_sync(mask, value, source);
}
template <class T>
AOQ_DEVICE T shuffle_xor(T value, int lane_mask, unsigned mask = kFullMask) {
  return __shfl_xor_sync(mask, value, lane_mask);
}
// Lanes without a source (lane + delta ≥ 32) keep their own value.
template <class T>
AOQ_DEVICE T shuffle_down(T value, int delta, unsigned mask = kFullMask) {
  return __shfl_down_sync(mask, value, delta);
}
AOQ_DEVICE unsigned ballot(bool predicate, unsigned mask = kFullMask) { return __ballot_sync(mask, predicate); }

AOQ_DEVICE int popcount(unsigned bits) { return __popc(bits); }
AOQ_DEVICE int lowest_bit(unsigned bits) { return __ffs(static_cast<int>(bits)) - 1; }  // −1 where there is none

// Atomics return the old value and order nothing. To publish memory: every writer, sync_block, then one thread does
// thread_fence and the atomic. To read it: the atomic that saw the others, thread_fence, then sync_block for the block.
AOQ_DEVICE uint64_t atomic_max(uint64_t* address, uint64_t value) {
  return atomicMax(reinterpret_cast<unsigned long long*>(address), static_cast<unsigned long long>(value));
}
AOQ_DEVICE uint32_t atomic_add(uint32_t* address, uint32_t value) { return atomicAdd(address, value); }
AOQ_DEVICE void thread_fence() { __threadfence(); }

// A word of global memory that others change by atomics at this moment: some value that it had.
AOQ_DEVICE uint64_t load_relaxed(const uint64_t* address) {
  uint64_t value;
  asm volatile("ld.relaxed.gpu.global.u64 %0, [%1];" : "=l"(value) : "l"(__cvta_generic_to_global(address)) : "memory");
  return value;
}

// Memory that other blocks wrote and published, read past the L1 cache.
template <class T>
AOQ_DEVICE T load_fresh(const T* address) {
  return __ldcg(address);
}

AOQ_DEVICE uint32_t shared_address(const void* shared) {
  return static_cast<uint32_t>(__cvta_generic_to_shared(shared));
}

// Starts a copy of 16 bytes, both ends 16-byte aligned; only the first `valid_bytes` are read, the rest becomes zero.
// The bytes are there for this thread after copy_async_wait, for the block after a sync_block that follows it.
AOQ_DEVICE void copy_async_16(void* shared, const void* global, int valid_bytes = 16) {
  asm volatile("cp.async.cg.shared.global [%0], [%1], 16, %2;" ::"r"(shared_address(shared)), "l"(global),
               "r"(valid_bytes)
               : "memory");
}
// Closes a group of copies (it may be empty).
AOQ_DEVICE void copy_async_commit() { asm volatile("cp.async.commit_group;" ::: "memory"); }
// Waits until at most the kPending youngest groups of this thread are unfinished.
template <int kPending>
AOQ_DEVICE void copy_async_wait() {
  asm volatile("cp.async.wait_group %0;" ::"n"(kPending) : "memory");
}

// Four matrices of 8 rows × 16 bytes: lane 8i + r names row r of matrix i, and receives in word i the 4 bytes at
// column lane % 4 of row lane / 4.
AOQ_DEVICE void load_matrix_x4(uint32_t (&words)[4], const void* shared_row) {
  asm volatile("ldmatrix.sync.aligned.m8n8.x4.shared.b16 {%0, %1, %2, %3}, [%4];"
               : "=r"(words[0]), "=r"(words[1]), "=r"(words[2]), "=r"(words[3])
               : "r"(shared_address(shared_row))
               : "memory");
}

// c (16, 8) += a (16, 16) · b (8, 16)ᵀ; with g = lane / 4 and t = lane % 4
//   c[i]: row g + 8·(i / 2), column 2t + i % 2
//   a[i]: row g + 8·(i % 2), columns 2t and 2t + 1, + 8·(i / 2)         b[i]: row g, columns 2t and 2t + 1, + 8i
template <class Element>
AOQ_DEVICE void mma_16x8x16(float (&c)[4], const uint32_t (&a)[4], const uint32_t (&b)[2]) {
  static_assert(std::is_same_v<Element, BFloat16> || std::is_same_v<Element, Half>);
  if constexpr (std::is_same_v<Element, BFloat16>) {
    asm volatile(
        "mma.sync.aligned.m16n8k16.row.col.f32.bf16.bf16.f32 {%0, %1, %2, %3}, {%4, %5, %6, %7}, {%8, %9}, "
        "{%0, %1, %2, %3};"
        : "+f"(c[0]), "+f"(c[1]), "+f"(c[2]), "+f"(c[3])
        : "r"(a[0]), "r"(a[1]), "r"(a[2]), "r"(a[3]), "r"(b[0]), "r"(b[1]));
  } else {
    asm volatile(
        "mma.sync.aligned.m16n8k16.row.col.f32.f16.f16.f32 {%0, %1, %2, %3}, {%4, %5, %6, %7}, {%8, %9}, "
        "{%0, %1, %2, %3};"
        : "+f"(c[0]), "+f"(c[1]), "+f"(c[2]), "+f"(c[3])
        : "r"(a[0]), "r"(a[1]), "r"(a[2]), "r"(a[3]), "r"(b[0]), "r"(b[1]));
  }
}

// c (16, 8) += a (16, 8) · b (8, 8)ᵀ; c as above
//   a[i]: row g + 8·(i % 2), column t + 4·(i / 2)         b[i]: row g, column t + 4i
AOQ_DEVICE void mma_16x8x8_tf32(float (&c)[4], const uint32_t (&a)[4], const uint32_t (&b)[2]) {
  asm volatile(
      "mma.sync.aligned.m16n8k8.row.col.f32.tf32.tf32.f32 {%0, %1, %2, %3}, {%4, %5, %6, %7}, {%8, %9}, "
      "{%0, %1, %2, %3};"
      : "+f"(c[0]), "+f"(c[1]), "+f"(c[2]), "+f"(c[3])
      : "r"(a[0]), "r"(a[1]), "r"(a[2]), "r"(a[3]), "r"(b[0]), "r"(b[1]));
}

// The nearest tf32, ties away from zero; words that skip it are truncated by the mma.
AOQ_DEVICE uint32_t to_tf32(float value) {
  uint32_t bits;
  asm("cvt.rna.tf32.f32 %0, %1;" : "=r"(bits) : "f"(value));
  return bits;
}

AOQ_DEVICE float half_to_float(uint16_t bits) {
  float value;
  asm("cvt.f32.f16 %0, %1;" : "=f"(value) : "h"(bits));
  return value;
}
AOQ_DEVICE uint16_t float_to_half(float value) {
  uint16_t bits;
  asm("cvt.rn.f16.f32 %0, %1;" : "=h"(bits) : "f"(value));
  return bits;
}

// a · b + c rounded once, whatever the compiler contracts elsewhere.
AOQ_DEVICE float fused_multiply_add(float a, float b, float c) { return __fmaf_rn(a, b, c); }
AOQ_DEVICE double fused_multiply_add(double a, double b, double c) { return __fma_rn(a, b, c); }

// The greater of the two, NaN where either is NaN.
AOQ_DEVICE float max_or_nan(float a, float b) {
  float greater;
  asm("max.NaN.f32 %0, %1, %2;" : "=f"(greater) : "f"(a), "f"(b));
  return greater;
}

}  // namespace aoq::device

#endif
