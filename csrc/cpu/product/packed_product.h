// The product of image and text rows on processors with 512-bit vectors, from operands packed in the order it reads
// them.
//
// A word is one float, or two neighbouring bfloat16 dimensions, whose products are exact and are summed in float32 by
// the processor's dot-product instruction, which takes subnormal numbers as 0. Every score is summed in the same order,
// whatever tile it is in.
#pragma once

#include <cstdint>

#include "stable_compat.h"

namespace aoq::cpu {

enum class Word { kFloat, kBfloat16Pair };

// The longest chain of additions that a term of a score goes through.
int64_t packed_additions(Word word, int64_t words);

// Whether this processor has the instructions; torch's product serves the others.
bool has_packed_product(Word word);

// Panels of kPanel rows, word by word: (panels, words, kPanel). Rows past the last are 0. For a packed product alone.
template <int64_t kPanel>
class PackedRows {
 public:
  void pack(const void* rows, int64_t count, int64_t words);
  const uint32_t* panel(int64_t p) const { return static_cast<const uint32_t*>(words_.const_data_ptr()) + p * size_; }

 private:
  Tensor words_;      // kept for the next pack, when that is no larger
  int64_t size_ = 0;  // of a panel
};

inline constexpr int64_t kImagePanel = 12, kTextPanel = 32;  // 24 sums in 32 registers
using PackedImages = PackedRows<kImagePanel>;
using PackedTexts = PackedRows<kTextPanel>;

// scores (rows, columns), row stride `stride`: images against texts first_column, …, a multiple of kTextPanel. On the
// calling thread alone.
void packed_product(Word word, const PackedImages& images, const PackedTexts& texts, int64_t rows, int64_t first_column,
                    int64_t columns, int64_t words, float* scores, int64_t stride);

}  // namespace aoq::cpu
