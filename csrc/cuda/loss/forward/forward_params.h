// What the forward kernels read and write, as plain structs, and the functions that launch them. Sizes and strides
// count elements. Free of torch and of device code.
#pragma once

#if defined(AOQ_SIMT)
#include "simt/runtime.h"
#else
#include <cuda_runtime_api.h>
#endif

#include "cuda/host/element_types.h"
#include "cuda/tile/choice.h"
#include "params.h"

namespace aoq::cuda {
#if defined(AOQ_SIMT)
using Stream = simt::Schedule;
#else
using Stream = cudaStream_t;
#endif
}  // namespace aoq::cuda

namespace aoq::device {

// Which row of an operand belongs to an entry of a product.
struct RowMap {
  int64_t candidates = 1;           // an anchor has
  const int64_t* choice = nullptr;  // (anchors,): entries are anchors, rows their chosen candidates
  bool of_anchor = false;           // entries are candidates, rows their anchors; otherwise entries are rows
};

// One side of a product.
template <class Element>
struct Operand {
  const Element* data;            // rows, 16-byte aligned
  int64_t stride;                 // between rows, a multiple of 16 bytes
  int64_t count;                  // entries of the product
  const Compute<Element>* scale;  // by row: what its scores are multiplied by, its inverse length; or null
  RowMap map;
};

// score(i, j) = sim(left i, right j)
template <class Element>
struct Product {
  Operand<Element> left, right;  // images, texts
  int64_t width;                 // a multiple of 16 bytes
};

// scores[i] = score(i, i) of up to five products
template <class Element>
struct PairScores {
  static constexpr int kMost = 5;
  struct Part {
    Product<Element> product;
    Compute<Element>* scores;  // (count,)
  } part[kMost];
  int parts = 0;
};

// What decides which scores are negatives: images first, first + 1, … of a batch, against all of its texts.
template <class T>
struct NegativeRules {
  int64_t rows, columns;  // of S
  int64_t first;          // the pair of row r is column first + r
  const int64_t* group;   // (columns,) or null
  const T* positive;      // (columns,) p, where it is needed: unless the online negatives are the hardest
};

// Where the online negatives of N anchors come from. Packed keys are put back to "none" when they are read.
struct PackedNegatives {
  using T = float;
  uint64_t* key;  // (N,)
};
template <class Score>
struct StagedNegatives {
  using T = Score;
  int64_t* key;  // (2, N): score in the order of math/order.h, anchor
  T* hinge;      // (2, N): sum, how many are active; zero unless Online::kAll
};

template <class T>
struct FinishOutputs {
  T* saved;                           // (kSavedRows, count)
  T* losses;                          // (count,) or null
  T* total;                           // () or null: the reduced loss
  int64_t *text_index, *image_index;  // (count,); −1 where there is none
  int64_t* choice;                    // (2, count) to be set to 0, for anchors of one candidate; or null
};

inline constexpr int kFinishAnchors = 256;  // of a block

template <class Negatives>
struct FinishParams {
  using T = typename Negatives::T;
  int64_t count;
  const T* scores;  // (5, count): p, a, b, c, d; rows that the objective has no use for are not read
  LossParams loss;
  Negatives text, image;  // of every image, of every text
  FinishOutputs<T> out;
  double* partial;   // a block of kFinishAnchors each; read if out.total
  uint32_t* ticket;  // 0 between launches
};

// Both directions of S from one product, as packed keys; beside it the scores of pairs; then the losses.
template <class Element>
struct HardestParams {
  Product<Element> all;
  NegativeRules<float> rules;
  uint64_t *row_key, *column_key;  // (rows,), (columns,)
  PairScores<Element> pairs;
  bool finishes;  // the last block computes the losses; where hardest_may_finish
  FinishParams<PackedNegatives> finish;
};

// Both directions of S from two products, of any type and with the hinges of all negatives. For the rows, the columns
// are cut into row_chunks, and likewise for the columns.
template <class Element>
struct WalkParams {
  Product<Element> all;
  NegativeRules<Compute<Element>> rules;
  Online online;
  Compute<Element> margin;
  int64_t row_chunks, column_chunks;
  StagedNegatives<Compute<Element>> rows, columns;  // (chunks, 2, rows), (chunks, 2, columns)
};

template <class T>
struct FoldParams {
  struct Direction {
    int64_t count, chunks;
    StagedNegatives<T> from, to;  // (chunks, 2, count), (2, count)
  } direction[2];
};

template <class Negatives>
struct UnpackDirection {
  using T = typename Negatives::T;
  int64_t count;
  Negatives from;
  StagedNegatives<T> staged;  // or null
  int64_t* index;             // (count,) or null
  T* score;                   // (count,)
};
template <class Negatives>
struct UnpackParams {
  UnpackDirection<Negatives> direction[2];
};

template <class T>
struct ChooseParams {
  int64_t count;
  struct Direction {
    const T* scores;     // (count, candidates)
    int64_t candidates;  // ≥ 1
    T* best;             // (count,)
  } direction[2];        // texts, images
  int64_t* choice;       // (2, count)
};

template <class Element>
struct ScalesParams {
  struct Part {
    const Element* data;
    int64_t stride, count;
    Compute<Element>* scale;  // (count,)
  } part[6];
  int parts;
  int64_t width;
};

// How scores are computed. kTensor takes float32 as TF32.
enum class Arithmetic { kPlain, kTensor, kOrder };

constexpr bool hardest_may_finish(int64_t rows, int64_t columns) {
  return choose_tile_size(rows, columns) != TileSize::kLarge;
}

template <Arithmetic kArithmetic, class Element>
struct Scoring {
  static void pairs(const PairScores<Element>& params, cuda::Stream stream);
  static void hardest(const HardestParams<Element>& params, cuda::Stream stream);  // not for float64
  static void walk(const WalkParams<Element>& params, cuda::Stream stream);
};

template <class Negatives>
void launch_finish(const FinishParams<Negatives>& params, cuda::Stream stream);
template <class T>
void launch_fold(const FoldParams<T>& params, cuda::Stream stream);
template <class Negatives>
void launch_unpack(const UnpackParams<Negatives>& params, cuda::Stream stream);
template <class T>
void launch_choose(const ChooseParams<T>& params, cuda::Stream stream);
template <class Element>
void launch_scales(const ScalesParams<Element>& params, cuda::Stream stream);

}  // namespace aoq::device
