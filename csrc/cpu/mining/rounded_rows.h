// Rows as a fast product reads them, and how far that is from the rows themselves.
#pragma once

#include <mutex>
#include <vector>

#include "cpu/mining/side.h"
#include "cpu/product/packed_product.h"

namespace aoq::cpu {

// Which product filters the scores. kTorch is torch's own, whose rounding of its inputs the caller states.
enum class Product { kTorch, kPackedFloat, kPackedBfloat16 };

// Words of a packed row.
inline int64_t packed_words(Product product, int64_t width) {
  return product == Product::kPackedBfloat16 ? (width + 1) / 2 : width;
}

// The longest chain of additions that a term of a score goes through.
int64_t longest_sum(Product product, int64_t width);

// Fills side.bound and side.longest for the given product; in parallel.
void measure_rows(MiningSide& side, Product product, double input_rounding);

// Packs rows [first, first + count) for the product; kPanel as in packed_product.h.
template <int64_t kPanel>
void pack_rows(PackedRows<kPanel>& packed, const MiningSide& side, int64_t first, int64_t count, Product product);

// The right operand in blocks, packed together or each by the thread that needs it first.
class PackedCandidates {
 public:
  static constexpr int64_t kBlock = 2048;

  PackedCandidates(const MiningSide& side, Product product)
      : side_(side), product_(product), blocks_((side.count + kBlock - 1) / kBlock) {}

  void pack_all();
  const PackedTexts& block(int64_t number);

 private:
  struct Block {
    std::once_flag once;
    PackedTexts packed;
  };

  const MiningSide& side_;
  Product product_;
  std::vector<Block> blocks_;
};

}  // namespace aoq::cpu
