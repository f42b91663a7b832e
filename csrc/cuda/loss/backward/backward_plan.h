// Which kernels a backward pass launches, and the panels of S that Online::kAll walks. Free of torch.
#pragma once

#include <algorithm>

#include "cuda/host/arena.h"
#include "cuda/loss/backward/backward_params.h"

namespace aoq::device {

// The batch as Online::kAll reads it.
template <class Element>
struct AllBatch {
  Operand<Element> image, text;          // (R, D); scale for cosine similarity
  Operand<Element> all_image, all_text;  // (C, D)
  int64_t first, width;
  const int64_t* group;
  Compute<Element> margin;
  LossSlopes<Compute<Element>> slopes;
};

// Lays out the memory of hubs; `pieces` has to be 0. A batch that has none, by its size or its needs, takes nothing.
template <class Element>
Hubs<Compute<Element>> take_hubs(cuda::Arena& arena, const BackwardParams<Element>& p) {
  using T = Compute<Element>;
  constexpr int64_t kColumns = 32 * (16 / int64_t(sizeof(Element)));  // of a warp's slice
  if (p.slopes.anchors <= kHub || !(p.grad[kImageRow] || p.grad[kTextRow])) return {};
  const int64_t most = most_hub_pieces(p.slopes.anchors), stride = (p.width + kColumns - 1) / kColumns * kColumns;
  auto* const piece = arena.take<HubPiece<T>>(most);
  auto* const pieces = arena.take<uint32_t>(1);
  return {piece, pieces, arena.take<T>(most * stride), stride, 0};
}

inline constexpr int64_t kPanelElements = int64_t{1} << 24;

// A panel is as long as the batch, so that a product of it is finished; it is as many rows high as memory allows.
inline int64_t panel_rows(int64_t rows, int64_t length, int64_t elements) {
  return std::clamp<int64_t>(elements / std::max<int64_t>(length, 1), 1, std::max<int64_t>(rows, 1));
}

template <class Element>
Operand<Element> rows_from(Operand<Element> operand, int64_t first, int64_t count) {
  operand.data += first * operand.stride;
  operand.count = count;
  if (operand.scale) operand.scale += first;
  return operand;
}

// How a panel and the other side's rows become gradient rows: out (targets, D) = Σ slopes · source.
template <class Element>
struct PanelProduct {
  bool is_text;          // whose gradient it is; a text's panel is (sources, targets)
  int64_t first_target;  // among the rows of that side
  Operand<Element> target, source;
  const Compute<Element>* panel;
  Compute<Element>* out;
};

// dense_image and dense_text (R, D), each if given. `panel` holds panel_elements; slopes(params) fills it, and
// multiply(PanelProduct) reads it.
template <class Element, class Slopes, class Multiply>
void run_all_negatives(const AllBatch<Element>& b, Compute<Element>* panel, int64_t panel_elements,
                       Compute<Element>* dense_image, Compute<Element>* dense_text, Slopes slopes, Multiply multiply) {
  const int64_t rows = b.image.count, anchors = b.slopes.anchors;
  const auto fill = [&](const Operand<Element>& image, int64_t row_anchor, const Operand<Element>& text,
                        int64_t column_anchor) {
    slopes(AllSlopesParams<Element>{
        {image, text, b.width}, row_anchor, column_anchor, b.group, b.margin, b.slopes, panel});
  };
  const int64_t height = panel_rows(rows, anchors, panel_elements);
  const bool whole = height >= rows && rows == anchors;  // one panel serves both sides
  for (int64_t row = 0; dense_image && row < rows; row += height) {
    const auto image = rows_from(b.image, row, std::min(height, rows - row));
    fill(image, b.first + row, b.all_text, 0);
    multiply(PanelProduct<Element>{false, row, image, b.all_text, panel, dense_image + row * b.width});
  }
  for (int64_t row = 0; dense_text && row < rows; row += height) {
    const auto text = rows_from(b.text, row, std::min(height, rows - row));
    if (!whole || !dense_image) fill(b.all_image, 0, text, b.first + row);
    multiply(PanelProduct<Element>{true, row, text, b.all_image, panel, dense_text + row * b.width});
  }
}

template <class Element>
void launch_order_product(const PanelProduct<Element>& product, int64_t width, cuda::Stream stream) {
  const auto& [is_text, first, target, source, panel, out] = product;
  launch_order_dense(
      OrderDenseParams<Element>{target.data, source.data, target.stride, source.stride, target.count, source.count,
                                width, is_text, panel, is_text ? 1 : source.count, is_text ? target.count : 1, out},
      stream);
}

}  // namespace aoq::device
