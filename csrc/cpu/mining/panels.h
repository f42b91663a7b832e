// Panels of fast scores: some anchors against some candidates, by the product that suits the processor.
#pragma once

#include "cpu/mining/rounded_rows.h"

namespace aoq::cpu {

// What all threads share: the two sides, and the products that a precision stands for.
struct ProductPlan {
  const MiningSide &anchors, &candidates;
  Product coarse, fine;  // the same where nothing is rounded
  PackedCandidates packed_coarse{candidates, coarse}, packed_fine{candidates, fine};

  Product product(Precision precision) const { return precision == Precision::kCoarse ? coarse : fine; }
};

// The product of one thread.
class PanelProduct {
 public:
  explicit PanelProduct(ProductPlan& plan) : plan_(plan) {}

  // Chooses anchors [first, first + rows).
  void choose_rows(int64_t first, int64_t rows);

  // scores (rows, columns) = those anchors · candidates[first_column:first_column + columns]ᵀ, contiguous. The
  // columns lie within one block of PackedCandidates, from a multiple of kTextPanel on.
  void multiply(Precision precision, int64_t first_column, int64_t columns, float* scores);

 private:
  ProductPlan& plan_;
  int64_t first_ = 0, rows_ = 0;
  PackedImages packed_[2];  // by precision
  bool is_packed_[2] = {};
};

}  // namespace aoq::cpu
