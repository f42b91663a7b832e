// The first launch of the sparse backward pass: every gradient row, but for what the many choosers of hubs add.
#pragma once

#include "cuda/loss/backward/sparse_block.cuh"

namespace aoq::device {

// The first launch. Hubs are written without their choosers here, listed for the second launch, and written anew there.
template <class E, Similarity kSimilarity>
struct QuintupletBackward : BackwardBlock<E, kSimilarity, kSimilarity == Similarity::kDot ? 6 : 4> {
  using Block = BackwardBlock<E, kSimilarity, kSimilarity == Similarity::kDot ? 6 : 4>;
  using Block::kFactors, Block::kThreads, Block::kWarps;
  using typename Block::Element, typename Block::Listed, typename Block::Lists, typename Block::ListShared;
  using typename Block::Params, typename Block::Slice, typename Block::Sum, typename Block::T;
  static constexpr int kBatch = kFactors ? kWarps : kWarpSize;  // rows whose terms are in shared memory at a time

  struct Shared {
    ListShared choosers;
    RowTerms<T> terms[kBatch];
  };

  static constexpr int kSharedBytes = sizeof(Shared);

  static int64_t blocks(const Params& p) { return (p.rows + p.rows_per_block - 1) / p.rows_per_block; }

  AOQ_DEVICE static void run(const Params& p) {
    Shared& shared = *reinterpret_cast<Shared*>(shared_memory());
    const int64_t first = int64_t(block_index()) * p.rows_per_block;
    const int64_t end = first + p.rows_per_block < p.rows ? first + p.rows_per_block : p.rows;
    for (int64_t row = first; row < end;) {
      const int rows = list_choosers(p, row, int(end - row < Lists::kMaxRows ? end - row : Lists::kMaxRows), shared);
      for (int batch = 0; batch < rows; batch += kBatch) {
        const int count = rows - batch < kBatch ? rows - batch : kBatch;
        write_rows(p, row + batch, batch, count, shared);
      }
      row += rows;
    }
  }

 private:
  // Returns for how many of the rows there was room. Hubs need none, and without them there is always room for one row.
  AOQ_DEVICE static int list_choosers(const Params& p, int64_t row, int rows, Shared& shared) {
    ListShared& lists = shared.choosers;
    const ChoiceMap maps[2] = {Block::choice_map(p, 0), Block::choice_map(p, 1)};
    const int64_t anchors = p.slopes.anchors;
    int found[2];
    bool is_counted = !p.hubs.piece;  // or there are none
    Lists::clear_counts(lists);
    while (Lists::collect(p.slopes, maps, p.first + row, rows, {0, anchors, !is_counted, is_counted}, lists, found) <
           anchors) {
      if (is_counted) rows = (rows + 1) / 2;
      is_counted = true;
    }
    if (p.hubs.piece) leave_hubs(p, row, rows, lists);
    Lists::sort(lists, rows, found);
    return rows;
  }

  AOQ_DEVICE static void leave_hubs(const Params& p, int64_t row, int rows, const ListShared& shared) {
    for (int map = 0; map < 2; ++map) {
      for (int r = thread_index(); r < rows; r += kThreads) {
        if (!shared.is_hub(map, r)) continue;
        const int count = int(shared.count[map][r] / kHub);
        HubPiece<T>* const piece = p.hubs.piece + atomic_add(p.hubs.pieces, count);
        for (int i = 0; i < count; ++i) piece[i] = {int(row) + r, map, i, count, 0, T(0)};
      }
    }
  }

  // A hub has none here.
  AOQ_DEVICE static Listed choosers_of(const ListShared& shared, int map, int r) {
    const int* start = shared.list[map].start;
    return shared.is_hub(map, r) ? Listed{0, 0} : Listed{start[r], start[r + 1]};
  }

  AOQ_DEVICE static void prepare(const Params& p, int64_t row, int rows, Shared& shared) {
    if constexpr (kFactors) {
      for (int r = warp_index(); r < rows; r += kWarps) {
        RowTerms<T> terms = slopes_of_row<kSimilarity>(p, row + r);
        finish_terms<kSimilarity>(p, row + r, terms);
        if (lane_index() == 0) shared.terms[r] = terms;
      }
    } else {
      for (int r = thread_index(); r < rows; r += kThreads) shared.terms[r] = slopes_of_row<kSimilarity>(p, row + r);
    }
  }

  // Rows `row`, row + 1, … of which the first is the range's row `listed`.
  AOQ_DEVICE static void write_rows(const Params& p, int64_t row, int listed, int rows, Shared& shared) {
    const int64_t slices = Slice::count(p.width);
    prepare(p, row, rows, shared);
#pragma unroll
    for (int map = 0; map < 2; ++map) {
      for (int r = 0; kFactors && r < rows; ++r) {
        Block::finish_choosers(p, map, row + r, choosers_of(shared.choosers, map, listed + r), shared.choosers);
      }
    }
    sync_block();
    for (int64_t item = warp_index(); item < rows * slices; item += kWarps) {
      const int r = int(item / slices);
      write_slice(p, row + r, listed + r, shared.terms[r], Slice::column(item % slices), shared);
    }
    sync_block();
  }

  // One slice of every gradient row of an anchor.
  AOQ_DEVICE static void write_slice(const Params& p, int64_t row, int listed, const RowTerms<T>& terms, int64_t column,
                                     Shared& shared) {
    Piece<Element> rows[kRoles];
    Block::load_rows(p, row, terms, column, rows);
#pragma unroll
    for (int grad = 0; grad < kGradients; ++grad) {
      if (!p.grad[grad]) continue;
      Sum sum;
      T own_scale = T(0);
      if (grad == kImageRow || grad == kTextRow) {
        const int map = grad;
        const Listed choosers = choosers_of(shared.choosers, map, listed);
        Block::add_choosers(p, map, choosers, 1, column, rows[map], shared.choosers, sum);
        own_scale = Block::sum_own_scales(map, choosers, shared.choosers);
      }
      Block::write_gradient(p, grad, row, terms, column, rows, own_scale, sum);
    }
  }
};

}  // namespace aoq::device
