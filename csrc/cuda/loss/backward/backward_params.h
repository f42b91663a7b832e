// What the backward kernels read and write, as plain structs, and the functions that launch them. Sizes and strides
// count elements. Free of torch and of device code.
#pragma once

#include "cuda/loss/forward/forward_params.h"

namespace aoq::device {

// (anchors, candidates, D), rows 16-byte aligned. Anchor i's candidate k: data + i · stride + k · candidate_stride.
template <class Element>
struct AnchorRows {
  const Element* data;  // null where the objective has none
  int64_t stride, candidate_stride;
  int64_t candidates;
};

// ∂loss/∂(the scores of anchors).
template <class T>
struct LossSlopes {
  const T* saved;  // (kSavedRows, C)
  const T* grad;   // ∂loss/∂L of anchor c is grad[c · stride] / divisor
  int64_t stride;  // 0 where one value serves all anchors
  T divisor;
  int64_t anchors;  // C
};

// A hub is an image, or a text, that more than kHub active anchors chose. For every kHub of them it has a piece, which
// is those among an equal share of all anchors: so the order of additions depends on the choices alone, and on no grid.
inline constexpr int64_t kHub = 512;

template <class T>
struct HubPiece {
  int row, map;  // of the chosen: of image where map is 0, of text where it is 1
  int number, count;
  uint32_t ticket;  // of the first piece: how many are done
  T own;            // the row's factor in its own gradient
};

template <class T>
struct Hubs {
  HubPiece<T>* piece;  // those of one hub follow each other; null where a batch cannot have any
  uint32_t* pieces;    // how many there are; 0 before the first launch
  T* sum;              // each piece's, `stride` apart
  int64_t stride;
  int64_t blocks;  // of the second launch
};

// All choosers of all hubs, of images and of texts, are at most 2·C.
constexpr int64_t most_hub_pieces(int64_t anchors) { return 2 * (anchors / kHub); }

// An anchor is a pair of the whole batch, C of them; the rows are those of anchors first, …, first + R − 1.
template <class Element>
struct BackwardParams {
  AnchorRows<Element> image, text;                                              // (R, D)
  AnchorRows<Element> all_image, all_text;                                      // (C, D), as far as needed
  AnchorRows<Element> hard_image, hard_text, hard_text_image, hard_image_text;  // (R, K, D)
  Element* grad[kGradients];                                                    // contiguous, null where not needed
  const int64_t *text_index, *image_index;                                      // (C,)
  const int64_t* choice;                                                        // (2, R), text then image
  LossSlopes<Compute<Element>> slopes;
  const Compute<Element>*dense_image, *dense_text;  // (R, D) or null: what the gradients of the pairs begin with
  int64_t rows, first, width;                       // R; D, of whole pieces of 16 bytes
  int64_t rows_per_block;                           // see backward_rows_per_block
  Hubs<Compute<Element>> hubs;
};

// Online::kAll: the derivatives by the scores of a panel of S, through the hinges of all negatives, (rows, columns).
// The panel's first row belongs to anchor `row_anchor`, its first column to anchor `column_anchor`.
template <class Element>
struct AllSlopesParams {
  Product<Element> panel;
  int64_t row_anchor, column_anchor;
  const int64_t* group;  // (C,) or null
  Compute<Element> margin;
  LossSlopes<Compute<Element>> slopes;
  Compute<Element>* out;
};

// Order similarity: the sum over a panel's other side, each row of `to` (count, D) written once.
template <class Element>
struct OrderDenseParams {
  const Element *target, *source;  // rows of the side whose gradient it is, and of the other
  int64_t target_stride, source_stride;
  int64_t targets, sources, width;
  bool is_text;                    // the side whose gradient it is
  const Compute<Element>* slopes;  // of target t and source s: slopes[t · by_target + s · by_source]
  int64_t by_target, by_source;
  Compute<Element>* out;  // (targets, D)
};

// As many blocks as run at a time, since each reads the argmax maps; but a block's lists have to hold its choosers.
constexpr int64_t backward_rows_per_block(int64_t rows, int64_t blocks_at_a_time) {
  constexpr int64_t kMost = 256;
  const int64_t height = (rows + blocks_at_a_time - 1) / blocks_at_a_time;
  return height < 1 ? 1 : height < kMost ? height : kMost;
}

// Sets rows_per_block and hubs.blocks for a GPU of so many processors.
template <class Element>
void launch_backward(Similarity similarity, BackwardParams<Element> params, int64_t processors, cuda::Stream stream);
template <class Element>
void launch_order_dense(const OrderDenseParams<Element>& params, cuda::Stream stream);

template <Arithmetic kArithmetic, class Element>
struct Slopes {
  static void all(const AllSlopesParams<Element>& params, cuda::Stream stream);
};

}  // namespace aoq::device
