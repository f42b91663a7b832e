#include "cpu/mining/rounded_rows.h"

#include <algorithm>
#include <bit>

#include "cpu/mining/exact_score.h"
#include "cpu/product/simd.h"
#include "cpu/product/subnormals.h"

namespace aoq::cpu {

namespace {

constexpr int64_t kRowsAtATime = 256;

// Nearest, ties to even; the row is padded with a zero to whole words.
AOQ_SIMD void round_to_bfloat16(const float* row, int64_t width, uint16_t* rounded) {
  for (int64_t d = 0; d < width; ++d) {
    const uint32_t bits = std::bit_cast<uint32_t>(row[d]);
    rounded[d] = static_cast<uint16_t>((bits + 0x7fff + (bits >> 16 & 1)) >> 16);
  }
  if (width % 2 != 0) rounded[width] = 0;
}

AOQ_SIMD void subtract_bfloat16(const float* row, const uint16_t* rounded, int64_t width, float* difference) {
  for (int64_t d = 0; d < width; ++d) {
    difference[d] = row[d] - std::bit_cast<float>(static_cast<uint32_t>(rounded[d]) << 16);  // exact: neighbours
  }
}

}  // namespace

int64_t longest_sum(Product product, int64_t width) {
  if (product == Product::kTorch) return width;
  const Word word = product == Product::kPackedBfloat16 ? Word::kBfloat16Pair : Word::kFloat;
  return packed_additions(word, packed_words(product, width));
}

void measure_rows(MiningSide& side, Product product, double input_rounding) {
  side.bound.resize(side.count);
  torch::stable::parallel_for(0, side.count, kRowsAtATime, [&](int64_t begin, int64_t end) {
    const ExactSubnormals exact;
    std::vector<uint16_t> rounded(side.width + 1);
    std::vector<float> difference(side.width);
    for (int64_t i = begin; i < end; ++i) {
      RowBound& bound = side.bound[i];
      bound.norm = euclidean_norm(side.row(i), side.width);
      bound.distance = bound.norm * input_rounding;
      if (product == Product::kPackedBfloat16) {
        round_to_bfloat16(side.row(i), side.width, rounded.data());
        subtract_bfloat16(side.row(i), rounded.data(), side.width, difference.data());
        bound.distance = euclidean_norm(difference.data(), side.width);
      }
    }
  });
  side.longest = {};
  for (const RowBound& bound : side.bound) {
    side.longest.norm = std::max(side.longest.norm, bound.norm);
    side.longest.distance = std::max(side.longest.distance, bound.distance);
  }
}

template <int64_t kPanel>
void pack_rows(PackedRows<kPanel>& packed, const MiningSide& side, int64_t first, int64_t count, Product product) {
  const int64_t words = packed_words(product, side.width);
  if (product == Product::kPackedFloat) return packed.pack(side.row(first), count, words);
  std::vector<uint16_t> rounded(count * words * 2);
  for (int64_t i = 0; i < count; ++i) {
    round_to_bfloat16(side.row(first + i), side.width, rounded.data() + i * words * 2);
  }
  packed.pack(rounded.data(), count, words);
}

template void pack_rows(PackedImages&, const MiningSide&, int64_t, int64_t, Product);
template void pack_rows(PackedTexts&, const MiningSide&, int64_t, int64_t, Product);

void PackedCandidates::pack_all() {
  torch::stable::parallel_for(0, static_cast<int64_t>(blocks_.size()), 1, [&](int64_t begin, int64_t end) {
    for (int64_t number = begin; number < end; ++number) block(number);
  });
}

const PackedTexts& PackedCandidates::block(int64_t number) {
  Block& block = blocks_[number];
  std::call_once(block.once, [&] {
    const int64_t first = number * kBlock;
    pack_rows(block.packed, side_, first, std::min(kBlock, side_.count - first), product_);
  });
  return block.packed;
}

}  // namespace aoq::cpu
