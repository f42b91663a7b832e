#include "simt/arithmetic.h"

#include <algorithm>
#include <bit>
#include <cmath>
#include <limits>

#include "simt/collectives.h"
#include "simt/state.h"

namespace aoq::simt {

constexpr unsigned kAllLanes = ~0u;
constexpr int kAtOnce = 4;  // products that a tensor core adds to a sum, the fewest of any

static float low(uint32_t word, Operand operand) {
  return operand == Operand::kBFloat16 ? std::bit_cast<float>(word << 16)
                                       : half_to_float(static_cast<uint16_t>(word & 0xffffu));
}

struct Fragments {
  Operand operand;
  float* c;
  const uint32_t* a;
  const uint32_t* b;
};

// One row of a or of b: the registers `first` and `first + step` of lanes 4·group … 4·group + 3 hold its two halves,
// lane t the elements 2t and 2t + 1 of each, for tf32 the element t.
static void unpack(const Lanes& lanes, Operand operand, int group, const uint32_t* Fragments::* words, int first,
                   int step, double (&row)[16]) {
  for (int piece = 0; piece < 2; ++piece) {
    for (int t = 0; t < 4; ++t) {
      const auto& fragments = *static_cast<const Fragments*>(lanes[4 * group + t]);
      const uint32_t word = (fragments.*words)[first + step * piece];
      if (operand == Operand::kTf32) {
        row[4 * piece + t] = std::bit_cast<float>(word & 0xffffe000u);
      } else {
        row[8 * piece + 2 * t] = low(word, operand);
        row[8 * piece + 2 * t + 1] = low(word >> 16, operand);
      }
    }
  }
}

// As a tensor core adds at the worst: it shifts all terms to the exponent of the greatest and cuts them off below 24
// bits, then the sum.
static float cut_off_sum(float c, const double* products, int count) {
  constexpr int kBelow = std::numeric_limits<float>::digits - 1;
  double greatest = std::fabs(static_cast<double>(c));
  for (int k = 0; k < count; ++k) greatest = std::max(greatest, std::fabs(products[k]));
  if (!(greatest > 0) || !std::isfinite(greatest)) greatest = 1;
  const double unit = std::ldexp(1.0, std::ilogb(greatest) - kBelow);
  double sum = std::trunc(c / unit);
  for (int k = 0; k < count; ++k) sum += std::trunc(products[k] / unit);
  sum *= unit;
  const auto nearest = static_cast<float>(sum);
  return std::fabs(static_cast<double>(nearest)) > std::fabs(sum) ? std::nextafter(nearest, 0.0f) : nearest;
}

static void multiply(const Lanes& lanes) {
  const Operand operand = static_cast<const Fragments*>(lanes[0])->operand;
  const int depth = operand == Operand::kTf32 ? 8 : 16;
  double a[16][16] = {}, b[8][16] = {};
  for (int group = 0; group < 8; ++group) {
    unpack(lanes, operand, group, &Fragments::a, 0, 2, a[group]);
    unpack(lanes, operand, group, &Fragments::a, 1, 2, a[group + 8]);
    unpack(lanes, operand, group, &Fragments::b, 0, 1, b[group]);
  }
  for (int lane = 0; lane < kWarpSize; ++lane) {
    for (int i = 0; i < 4; ++i) {
      const int row = lane / 4 + 8 * (i / 2), column = 2 * (lane % 4) + i % 2;
      float& c = static_cast<const Fragments*>(lanes[lane])->c[i];
      double products[16], sum = c;
      for (int k = 0; k < depth; ++k) sum += products[k] = a[row][k] * b[column][k];
      if (!active->schedule.cuts_off) {
        c = static_cast<float>(sum);
        continue;
      }
      for (int k = 0; k < depth; k += kAtOnce) c = cut_off_sum(c, products + k, kAtOnce);
    }
  }
}

void mma(Operand operand, float (&c)[4], const uint32_t (&a)[4], const uint32_t (&b)[2], const Site& site) {
  Fragments fragments{operand, c, a, b};
  collective(kAllLanes, site, &fragments, &multiply);
}

struct MatrixRow {
  const uint32_t* row;
  uint32_t* words;
};

void load_matrix_x4(uint32_t (&words)[4], const void* shared_row, const Site& site) {
  constexpr size_t kRowBytes = 16;
  check_shared(shared_row, kRowBytes, "ldmatrix from", site);
  note_read(shared_row, kRowBytes);
  MatrixRow mine{static_cast<const uint32_t*>(shared_row), words};
  collective(kAllLanes, site, &mine, [](const Lanes& lanes) {
    for (int lane = 0; lane < kWarpSize; ++lane) {
      for (int i = 0; i < 4; ++i) {
        const auto* from = static_cast<const MatrixRow*>(lanes[8 * i + lane / 4]);
        static_cast<const MatrixRow*>(lanes[lane])->words[i] = from->row[lane % 4];
      }
    }
  });
}

uint32_t round_to_tf32(float value) {
  constexpr uint32_t kDropped = 0x1fff;  // the 13 bits that tf32 lacks
  const auto bits = std::bit_cast<uint32_t>(value);
  return std::isfinite(value) ? (bits + (kDropped + 1) / 2) & ~kDropped : bits & ~kDropped;
}

float half_to_float(uint16_t bits) {
  constexpr uint16_t kInfinity = 0x7c00;
  const uint32_t sign = (bits & 0x8000u) << 16, magnitude = (bits & 0x7fffu) << 13;
  if ((bits & kInfinity) == kInfinity) return std::bit_cast<float>(sign | 0x7f800000u | magnitude);
  // The exponents' biases differ by 112; the product is exact for subnormals too.
  const float value = std::bit_cast<float>(magnitude) * 0x1p112f;
  return sign != 0 ? -value : value;
}

uint16_t float_to_half(float value) {
  constexpr float kOverflow = 65520.0f;  // rounds to infinity
  constexpr float kSmallestNormal = 0x1p-14f;
  const auto sign = static_cast<uint16_t>(std::signbit(value) ? 0x8000u : 0u);
  const float magnitude = std::fabs(value);
  if (std::isnan(value)) return 0x7fff;
  if (magnitude >= kOverflow) return sign | 0x7c00u;
  // nearbyint rounds ties to even; a carry out of the fraction is the next exponent, as it should be.
  if (magnitude < kSmallestNormal) return sign | static_cast<uint16_t>(std::nearbyint(std::ldexp(magnitude, 24)));
  int exponent = 0;
  const float fraction = std::frexp(magnitude, &exponent);  // in [1/2, 1)
  const auto units = static_cast<int>(std::nearbyint(std::ldexp(fraction, 11)));
  return static_cast<uint16_t>(sign | ((exponent + 14) * 1024 + (units - 1024)));
}

}  // namespace aoq::simt
