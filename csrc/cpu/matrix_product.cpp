// The product of two float32 matrices where the packed product is faster than torch's: one of them is packed in panels
// of rows, the other in panels of columns, and each element is summed in one order whatever the threads.
#include <algorithm>

#include "checks.h"
#include "cpu/product/packed_product.h"

namespace aoq::cpu {
namespace {

constexpr int64_t kMostPanels = 16;  // of rows that a panel of columns meets while they are in the second-level cache

int64_t ceil_div(int64_t count, int64_t step) { return (count + step - 1) / step; }

void check_matrix(const Tensor& matrix, const char* name) {
  STD_TORCH_CHECK(matrix.dim() == 2 && matrix.scalar_type() == ScalarType::Float, name, " must be a float32 matrix");
}

// With its rows or its columns in one piece, as packing reads them.
Tensor dense(const Tensor& matrix) {
  return matrix.stride(0) == 1 || matrix.stride(1) == 1 ? matrix : torch::stable::contiguous(matrix);
}

// into (M, N) = or += left (M, K) · right (K, N)
void multiply(const Tensor& into, const Tensor& left_matrix, const Tensor& right_matrix, bool adds) {
  if (!has_packed_product(Word::kFloat)) {
    adds ? addmm_(into, left_matrix, right_matrix) : mm_out(into, left_matrix, right_matrix);
    return;
  }
  const Tensor left = dense(left_matrix), right = dense(right_matrix);
  const int64_t rows = into.size(0), columns = into.size(1), words = left.size(1), stride = into.stride(0);
  PackedImages left_panels;
  PackedTexts right_panels;
  left_panels.pack(left.const_data_ptr(), rows, words, left.stride(0), left.stride(1));
  right_panels.pack(right.const_data_ptr(), columns, words, right.stride(1), right.stride(0));

  auto* const out = static_cast<float*>(into.mutable_data_ptr());
  const int64_t column_panels = ceil_div(columns, kTextPanel);
  const int64_t row_panels = ceil_div(rows, kImagePanel), groups = ceil_div(row_panels, kMostPanels);
  const int64_t height = ceil_div(row_panels, std::max<int64_t>(groups, 1)) * kImagePanel;  // of about the same for all
  torch::stable::parallel_for(0, groups * column_panels, 1, [&](int64_t begin, int64_t end) {
    for (int64_t first = 0; first == 0 || first < words; first += kDeepest) {
      for (int64_t block = begin; block < end; ++block) {
        const int64_t panel = block % column_panels, column = panel * kTextPanel;
        const int64_t top = block / column_panels * height;
        for (int64_t row = top; row < std::min(rows, top + height); row += kImagePanel) {
          packed_panel_product(left_panels.panel(row / kImagePanel) + first * kImagePanel,
                               right_panels.panel(panel) + first * kTextPanel, std::min(kDeepest, words - first),
                               std::min(kImagePanel, rows - row), columns - column, adds || first > 0,
                               out + row * stride + column, stride);
        }
      }
    }
  });
}

Tensor matrix_product(Tensor left, Tensor right) {
  check_matrix(left, "left"), check_matrix(right, "right");
  STD_TORCH_CHECK(left.size(1) == right.size(0), "right must have ", left.size(1), " rows, as left has columns");
  const Tensor out = empty_cpu({left.size(0), right.size(1)}, ScalarType::Float);
  multiply(out, left, right, false);
  return out;
}

void add_matrix_product_(Tensor into, Tensor left, Tensor right) {
  check_matrix(into, "into"), check_matrix(left, "left"), check_matrix(right, "right");
  STD_TORCH_CHECK(left.size(1) == right.size(0), "right must have ", left.size(1), " rows, as left has columns");
  const bool dense_rows = into.size(1) <= 1 || into.stride(1) == 1;
  const bool own_rows = into.size(0) <= 1 || into.stride(0) >= into.size(1);
  STD_TORCH_CHECK(into.size(0) == left.size(0) && into.size(1) == right.size(1) && dense_rows && own_rows,
                  "into must have shape (", left.size(0), ", ", right.size(1), "), and each row in one piece");
  multiply(into, left, right, true);
}

}  // namespace
}  // namespace aoq::cpu

STABLE_TORCH_LIBRARY_IMPL(aoq, CPU, m) {
  m.impl("matrix_product", TORCH_BOX(&aoq::cpu::matrix_product));
  m.impl("add_matrix_product_", TORCH_BOX(&aoq::cpu::add_matrix_product_));
}
