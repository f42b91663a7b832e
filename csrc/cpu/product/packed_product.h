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
  void pack(const void* rows, int64_t count, int64_t words) { pack(rows, count, words, words, 1); }
  // The same with any distance between rows, and between words, counted in words; one of the two is 1.
  void pack(const void* rows, int64_t count, int64_t words, int64_t row_stride, int64_t word_stride);
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

// The words of a panel of each operand that the second-level cache holds.
inline constexpr int64_t kDeepest = 1024;

// into (rows, columns), row stride `stride`: one image panel against one text panel, summed over at most kDeepest words
// of kFloat; or that added to what is there. On the calling thread alone.
void packed_panel_product(const uint32_t* images, const uint32_t* texts, int64_t words, int64_t rows, int64_t columns,
                          bool adds, float* into, int64_t stride);

}  // namespace aoq::cpu
