#include "cpu/mining/panels.h"

namespace aoq::cpu {

namespace {

Tensor view_rows_of(const MiningSide& side, int64_t first, int64_t count) {
  return cpu_view(const_cast<float*>(side.row(first)), count, side.width, ScalarType::Float);
}

}  // namespace

void PanelProduct::choose_rows(int64_t first, int64_t rows) {
  first_ = first;
  rows_ = rows;
  is_packed_[0] = is_packed_[1] = false;
}

void PanelProduct::multiply(Precision precision, int64_t first_column, int64_t columns, float* scores) {
  const Product product = plan_.product(precision);
  if (product == Product::kTorch) {
    const Tensor candidates = view_rows_of(plan_.candidates, first_column, columns);
    mm_out(cpu_view(scores, rows_, columns, ScalarType::Float), view_rows_of(plan_.anchors, first_, rows_),
           torch::stable::transpose(candidates, 0, 1));
    return;
  }
  const int which = static_cast<int>(precision);
  if (!is_packed_[which]) pack_rows(packed_[which], plan_.anchors, first_, rows_, product);
  is_packed_[which] = true;
  PackedCandidates& candidates = precision == Precision::kCoarse ? plan_.packed_coarse : plan_.packed_fine;
  const PackedTexts& block = candidates.block(first_column / PackedCandidates::kBlock);
  packed_product(product == Product::kPackedFloat ? Word::kFloat : Word::kBfloat16Pair, packed_[which], block, rows_,
                 first_column % PackedCandidates::kBlock, columns, packed_words(product, plan_.anchors.width), scores,
                 columns);
}

}  // namespace aoq::cpu
