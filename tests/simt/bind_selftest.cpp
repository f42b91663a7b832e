// Small kernels that use each primitive as it should be used; tests/simt/test_runtime.py compares them with NumPy.
#include "cuda/device/primitives.cuh"
#include "cuda/host/launch.h"
#include "simt/binding.h"

namespace aoq::selftest {

using namespace aoq::device;

// Of one warp with values (32,), in the same order in results (6, 32): whatever lanes can tell each other.
struct LaneExchange {
  struct Params {
    const float* values;
    float* results;
    int64_t* wide;  // (32,): a 64-bit value of the lane above
  };
  static constexpr int kThreads = 32;
  static constexpr int kSharedBytes = 0;
  AOQ_DEVICE static void run(const Params& p) {
    constexpr unsigned kEven = 0x55555555;
    const int lane = lane_index();
    const float value = p.values[lane];
    p.results[lane] = shuffle(value, 5);
    p.results[32 + lane] = shuffle_xor(value, 3);
    p.results[64 + lane] = shuffle_down(value, 4);
    p.results[96 + lane] = static_cast<float>(popcount(ballot(value > 0)));
    p.results[128 + lane] = static_cast<float>(lowest_bit(ballot(value > 0)));
    p.results[160 + lane] = lane % 2 == 0 ? shuffle_xor(value, 2, kEven) : 0.0f;
    p.wide[lane] = shuffle(int64_t{1} << lane, lane + 1);
  }
};

AOQ_SIMT_BINDING(lane_exchange) {
  cuda::launch<LaneExchange>(
      1, 0, call.schedule(),
      {call.input<float>("values"), call.output<float>("results", {6, 32}), call.output<int64_t>("wide", {32})});
}

// counts (buckets,) and greatest (1,) of words (blocks · 64,).
struct Histogram {
  struct Params {
    const uint32_t* words;
    uint32_t* counts;
    uint64_t* greatest;
    uint32_t buckets;
  };
  static constexpr int kThreads = 64;
  static constexpr int kSharedBytes = 0;
  AOQ_DEVICE static void run(const Params& p) {
    const uint32_t word = p.words[block_index() * kThreads + thread_index()];
    atomic_add(&p.counts[word % p.buckets], 1);
    if (load_relaxed(p.greatest) < word) atomic_max(p.greatest, word);
  }
};

AOQ_SIMT_BINDING(histogram) {
  const Histogram::Params params{call.input<uint32_t>("words"), call.in_out<uint32_t>("counts"),
                                 call.in_out<uint64_t>("greatest"), static_cast<uint32_t>(call.shape("counts")[0])};
  cuda::launch<Histogram>(call.shape("words")[0] / Histogram::kThreads, 0, call.schedule(), params);
}

enum class Format { kBFloat16, kHalf, kTf32 };

// product (16, 8) = a (16, row_bytes) · b (8, row_bytes)ᵀ by one warp, 32 bytes of each row at a time, while the next
// 32 are on their way. The last piece may be short.
template <Format kFormat>
struct Product {
  struct Params {
    const char* a;
    const char* b;
    float* product;
    int row_bytes;  // a multiple of 16
  };
  static constexpr int kThreads = 32;
  static constexpr int kStepBytes = 32;
  static constexpr int kRows = 16 + 8;
  static constexpr int kBufferBytes = kRows * kStepBytes;
  static constexpr int kSharedBytes = 2 * kBufferBytes;

  AOQ_DEVICE static void start_copies(const Params& p, int step) {
    char* buffer = shared_memory() + step % 2 * kBufferBytes;
    for (int piece = lane_index(); piece < 2 * kRows; piece += kThreads) {
      const int row = piece / 2, at = step * kStepBytes + piece % 2 * 16;
      const char* source = row < 16 ? p.a + row * p.row_bytes : p.b + (row - 16) * p.row_bytes;
      const bool inside = at < p.row_bytes;
      copy_async_16(buffer + row * kStepBytes + piece % 2 * 16, inside ? source + at : source, inside ? 16 : 0);
    }
    copy_async_commit();
  }

  AOQ_DEVICE static void run(const Params& p) {
    const int steps = (p.row_bytes + kStepBytes - 1) / kStepBytes, lane = lane_index();
    float c[4] = {};
    start_copies(p, 0);
    for (int step = 0; step < steps; ++step) {
      if (step + 1 < steps) {
        start_copies(p, step + 1);
        copy_async_wait<1>();
      } else {
        copy_async_wait<0>();
      }
      sync_warp();
      const char* buffer = shared_memory() + step % 2 * kBufferBytes;
      uint32_t a[4], b[4];
      load_matrix_x4(a, buffer + lane % 16 * kStepBytes + lane / 16 * 16);
      load_matrix_x4(b, buffer + (16 + lane % 8) * kStepBytes + lane / 8 % 2 * 16);
      const uint32_t halves[2] = {b[0], b[1]};
      if constexpr (kFormat == Format::kBFloat16) mma_16x8x16<BFloat16>(c, a, halves);
      if constexpr (kFormat == Format::kHalf) mma_16x8x16<Half>(c, a, halves);
      if constexpr (kFormat == Format::kTf32) mma_16x8x8_tf32(c, a, halves);
      sync_warp();  // the buffer is filled again in the next step
    }
    for (int i = 0; i < 4; ++i) p.product[(lane / 4 + i / 2 * 8) * 8 + lane % 4 * 2 + i % 2] = c[i];
  }
};

template <Format kFormat>
static void launch_product(simt::Call& call) {
  const auto bytes = static_cast<int>(call.shape("a")[1]);
  cuda::launch<Product<kFormat>>(
      1, Product<kFormat>::kSharedBytes, call.schedule(),
      {call.input<char>("a"), call.input<char>("b"), call.output<float>("product", {16, 8}), bytes});
}

AOQ_SIMT_BINDING(product_bfloat16) { launch_product<Format::kBFloat16>(call); }
AOQ_SIMT_BINDING(product_half) { launch_product<Format::kHalf>(call); }
AOQ_SIMT_BINDING(product_tf32) { launch_product<Format::kTf32>(call); }

// values (n,) to and from what the tensor cores multiply; n a multiple of 32.
struct Conversions {
  struct Params {
    const float* values;
    const uint16_t* halves;
    uint16_t* to_half;
    float* from_half;
    uint32_t* tf32;
    float* greater;  // of the value and its right neighbour
  };
  static constexpr int kThreads = 32;
  static constexpr int kSharedBytes = 0;
  AOQ_DEVICE static void run(const Params& p) {
    const int64_t i = int64_t{block_index()} * kThreads + thread_index();
    p.to_half[i] = float_to_half(p.values[i]);
    p.from_half[i] = half_to_float(p.halves[i]);
    p.tf32[i] = to_tf32(p.values[i]);
    p.greater[i] = max_or_nan(p.values[i], p.values[(i + 1) % (int64_t{block_count()} * kThreads)]);
  }
};

AOQ_SIMT_BINDING(conversions) {
  const int64_t count = call.shape("values")[0];
  cuda::launch<Conversions>(count / Conversions::kThreads, 0, call.schedule(),
                            {call.input<float>("values"), call.input<uint16_t>("halves"),
                             call.output<uint16_t>("to_half", {count}), call.output<float>("from_half", {count}),
                             call.output<uint32_t>("tf32", {count}), call.output<float>("greater", {count})});
}

}  // namespace aoq::selftest
