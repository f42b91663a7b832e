// The sparse backward pass. A block owns a range of rows: it lists the anchors that chose them, and sums each gradient
// row, in an order that does not depend on scheduling, from whole slices that a warp reads once for all gradients of
// the anchor. Rows that many chose, hubs, are left to a second launch, which shares each of them among blocks.
#pragma once

#include "cuda/device/last_block.cuh"
#include "cuda/host/launch_all.cuh"
#include "cuda/loss/backward/choosers.cuh"
#include "cuda/loss/backward/pair_terms.cuh"

namespace aoq::device {

// What both launches do with a block. A warp reads kAtOnce choosers at a time: as many as registers allow.
template <class E, Similarity kSimilarity, int kAtOnce>
struct BackwardBlock {
  using Params = BackwardParams<E>;
  using Element = E;
  using T = Compute<Element>;
  using Slice = RowSlice<Element>;
  using Sum = typename Slice::Sum;
  static constexpr bool kFactors = kSimilarity != Similarity::kDot;  // slopes alone are not the rows' factors
  static constexpr bool kManyRegisters = kFactors || sizeof(T) == 8;
  static constexpr int kThreads = kManyRegisters ? 192 : 128, kBlocksPerProcessor = kManyRegisters ? 2 : 3;
  static constexpr int kWarps = kThreads / kWarpSize;
  using Lists = Choosers<T, kThreads>;
  using ListShared = typename Lists::Shared;

  // The choosers begin, …, end − 1 of a list.
  struct Listed {
    int begin, end;
  };

  AOQ_DEVICE static ChoiceMap choice_map(const Params& p, int map) {
    if (!p.grad[map]) return {nullptr, kByImage};
    return map == 0 ? ChoiceMap{p.image_index, kByImage} : ChoiceMap{p.text_index, kByText};
  }

  AOQ_DEVICE static const Element* chooser_row(const Params& p, int map, int anchor) {
    return row_at(map == 0 ? p.all_text : p.all_image, anchor);
  }

  AOQ_DEVICE static const Element* own_row(const Params& p, int map, int64_t row) {
    return row_at(map == 0 ? p.image : p.text, row);
  }

  // The slopes of choosers of one row become factors; a warp for each.
  AOQ_DEVICE static void finish_choosers(const Params& p, int map, int64_t row, Listed listed, ListShared& shared) {
    if constexpr (kFactors) {
      typename Lists::List& list = shared.list[map];
      const Element* own = own_row(p, map, row);
      for (int e = listed.begin + warp_index(); e < listed.end; e += kAtOnce * kWarps) {
        T own_square = T(0), other_square[kAtOnce] = {}, product[kAtOnce] = {};
#pragma unroll 1
        for (int64_t slice = 0; slice < Slice::count(p.width); ++slice) {
          const int64_t column = Slice::column(slice);
          const Piece<Element> a = Slice::load(own, column, p.width);
          Piece<Element> b[kAtOnce];
          load_choosers(p, map, {e, listed.end}, kWarps, column, shared, b);
          if constexpr (kSimilarity == Similarity::kCosine) own_square += pair_product<kSimilarity>(a, a);
#pragma unroll
          for (int n = 0; n < kAtOnce; ++n) {
            product[n] += map == 0 ? pair_product<kSimilarity>(a, b[n]) : pair_product<kSimilarity>(b[n], a);
            if constexpr (kSimilarity == Similarity::kCosine) other_square[n] += pair_product<kSimilarity>(b[n], b[n]);
          }
        }
        own_square = warp_sum(own_square);
#pragma unroll
        for (int n = 0; n < kAtOnce; ++n) {
          const int at = e + n * kWarps;
          if (at >= listed.end) break;
          const PairFactors<T> factors =
              pair_factors<kSimilarity>(list.scale[at], own_square, warp_sum(other_square[n]), warp_sum(product[n]));
          sync_warp();  // every lane has read the slope
          if (lane_index() == 0) {
            list.scale[at] = factors.other;
            list.own_scale()[at] = factors.own_x;
          }
        }
      }
    }
  }

  // This warp's slice of choosers begin, begin + step, …
  AOQ_DEVICE static void load_choosers(const Params& p, int map, Listed listed, int step, int64_t column,
                                       const ListShared& shared, Piece<Element> (&pieces)[kAtOnce]) {
#pragma unroll
    for (int n = 0; n < kAtOnce; ++n) {
      const int e = listed.begin + n * step;
      const bool exists = e < listed.end;
      pieces[n] = Slice::load(chooser_row(p, map, exists ? shared.list[map].anchor[e] : 0), column, p.width, exists);
    }
  }

  // Adds every step-th of the choosers in this warp's slice; `own` is that slice of the chosen row.
  AOQ_DEVICE static void add_choosers(const Params& p, int map, Listed listed, int step, int64_t column,
                                      const Piece<Element>& own, const ListShared& shared, Sum& sum) {
    for (int e = listed.begin; e < listed.end; e += kAtOnce * step) {
      Piece<Element> other[kAtOnce];
      load_choosers(p, map, {e, listed.end}, step, column, shared, other);
#pragma unroll
      for (int n = 0; n < kAtOnce; ++n) {
        const T scale = e + n * step < listed.end ? shared.list[map].scale[e + n * step] : T(0);
        if constexpr (kSimilarity != Similarity::kOrder) {
          add_scaled(sum, scale, other[n]);
        } else if (map == 0) {
          add_order(sum, scale, own, other[n]);
        } else {
          add_order(sum, -scale, other[n], own);
        }
      }
    }
  }

  // By a whole warp, the same in every lane.
  AOQ_DEVICE static T sum_own_scales(int map, Listed listed, ListShared& shared) {
    if constexpr (kSimilarity != Similarity::kCosine) return T(0);
    T sum = T(0);
    for (int e = listed.begin + lane_index(); e < listed.end; e += kWarpSize) sum += shared.list[map].own_scale()[e];
    return warp_sum(sum);
  }

  AOQ_DEVICE static void load_rows(const Params& p, int64_t row, const RowTerms<T>& terms, int64_t column,
                                   Piece<Element> (&pieces)[kRoles]) {
    const Element* rows[kRoles];
    find_rows(p, row, terms, rows);
#pragma unroll
    for (int role = 0; role < kRoles; ++role) {
      pieces[role] = Slice::load(rows[role], column, p.width, terms.wanted >> role & 1);
    }
  }

  // One slice of one gradient row of an anchor, which begins with the sum over its choosers.
  AOQ_DEVICE static void write_gradient(const Params& p, int grad, int64_t row, const RowTerms<T>& terms,
                                        int64_t column, const Piece<Element> (&rows)[kRoles], T own_scale, Sum sum) {
    if (grad == kImageRow || grad == kTextRow) {
      if constexpr (kSimilarity == Similarity::kCosine) add_scaled(sum, own_scale, rows[role_of(grad)]);
      add_dense(p, grad, row, column, sum);
    }
#pragma unroll
    for (int pair = 0; pair < kPairs; ++pair) {
      const PairRoles roles = pair_roles(pair);
      const Piece<Element>&x = rows[roles.image], &y = rows[roles.text];
      const T scale = terms.scale[pair];
      if (roles.image_grad == grad) {
        if constexpr (kSimilarity == Similarity::kOrder) {
          add_order(sum, scale, x, y);
        } else {
          add_scaled(sum, scale, y);
        }
      } else if (roles.text_grad == grad) {
        if constexpr (kSimilarity == Similarity::kOrder) {
          add_order(sum, -scale, x, y);
        } else {
          add_scaled(sum, scale, x);
        }
      }
    }
    if constexpr (kSimilarity == Similarity::kCosine) add_scaled(sum, terms.own[role_of(grad)], rows[role_of(grad)]);
    store_row(p, grad, row, terms, column, sum);
  }

  // The row that a gradient is by.
  AOQ_DEVICE static constexpr Role role_of(int grad) {
    constexpr Role kRole[kGradients] = {kX, kY, kHardX, kHardY, kPartnerX, kPartnerY};
    return kRole[grad];
  }

  AOQ_DEVICE static void add_dense(const Params& p, int grad, int64_t row, int64_t column, Sum& sum) {
    const T* dense = grad == kImageRow ? p.dense_image : p.dense_text;
    if (!dense) return;
#pragma unroll
    for (int v = 0; v < Slice::kSize; ++v) {
      if (column + v < p.width) sum.value[v] += dense[row * p.width + column + v];
    }
  }

  // Candidates that were not chosen have no gradient.
  AOQ_DEVICE static void store_row(const Params& p, int grad, int64_t row, const RowTerms<T>& terms, int64_t column,
                                   const Sum& sum) {
    Element* out = p.grad[grad];
    if (grad == kImageRow || grad == kTextRow) {
      return Slice::store(out + row * p.width, column, p.width, sum);
    }
    const bool with_text = grad == kHardText || grad == kHardTextImage;
    const int64_t candidates = with_text ? p.hard_text.candidates : p.hard_image.candidates;
    const int64_t chosen = with_text ? terms.text_choice : terms.image_choice;
    for (int64_t k = 0; k < candidates; ++k) {
      Slice::store(out + (row * candidates + k) * p.width, column, p.width, k == chosen ? sum : Sum{});
    }
  }
};

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

// The second launch. A block sums a piece of a hub; the hub's last block adds the pieces in order and writes the row.
template <class E, Similarity kSimilarity>
struct HubBackward : BackwardBlock<E, kSimilarity, 8> {
  using Block = BackwardBlock<E, kSimilarity, 8>;
  using Block::kFactors, Block::kThreads, Block::kWarps;
  using typename Block::Element, typename Block::Lists, typename Block::ListShared;
  using typename Block::Params, typename Block::Slice, typename Block::Sum, typename Block::T;

  struct Shared {
    ListShared choosers;
    Sum sum[kThreads];
    uint32_t is_last;
  };

  static constexpr int kSharedBytes = sizeof(Shared);

  static int64_t blocks(const Params& p) { return p.hubs.blocks; }

  AOQ_DEVICE static void run(const Params& p) {
    Shared& shared = *reinterpret_cast<Shared*>(shared_memory());
    for (uint32_t item = block_index(); item < *p.hubs.pieces; item += block_count()) {
      HubPiece<T>* const piece = p.hubs.piece + item;
      const int map = piece->map, number = piece->number, count = piece->count;
      sum_piece(p, map, piece->row, number, count, item, shared);
      if (is_last_block(&piece[-number].ticket, count, shared.is_last)) {
        add_pieces(p, map, piece->row, item - number, count);
      }
    }
  }

 private:
  // Where column v of this lane's piece of a slice is: a warp's accesses are consecutive.
  AOQ_DEVICE static T* sum_of(const Params& p, uint32_t item, int64_t slice, int v) {
    return p.hubs.sum + item * p.hubs.stride + (slice * Slice::kSize + v) * kWarpSize + lane_index();
  }

  // List after list; a warp has a slice. Where there are fewer slices than warps, the choosers are shared too: of
  // `groups` groups, each takes every groups-th, and they are added in order.
  AOQ_DEVICE static void sum_piece(const Params& p, int map, int64_t row, int number, int count, uint32_t item,
                                   Shared& shared) {
    const int64_t slices = Slice::count(p.width), from = p.slopes.anchors * number / count,
                  to = p.slopes.anchors * (number + 1) / count;
    const int at_once = int(slices < kWarps ? slices : kWarps);
    const int groups = kWarps / at_once, group = warp_index() / at_once;  // the last warps may be left over
    const ChoiceMap maps[2] = {map == 0 ? Block::choice_map(p, 0) : ChoiceMap{},
                               map == 1 ? Block::choice_map(p, 1) : ChoiceMap{}};
    T own_scale = T(0);
    for (int64_t reached = from; reached < to;) {
      const bool is_first = reached == from;
      int found[2];
      reached = Lists::collect(p.slopes, maps, p.first + row, 1, {reached, to}, shared.choosers, found);
      Lists::sort(shared.choosers, 1, found);
      const int end = map == 0 ? found[0] : found[1];
      Block::finish_choosers(p, map, row, {0, end}, shared.choosers);
      sync_block();
      own_scale += Block::sum_own_scales(map, {0, end}, shared.choosers);
      for (int64_t round = 0; round < slices; round += at_once) {
        const int64_t slice = round + warp_index() % at_once, column = Slice::column(slice);
        Sum sum;
        if (group < groups) {
          const Piece<Element> own = Slice::load(Block::own_row(p, map, row), column, p.width);
          Block::add_choosers(p, map, {group, end}, groups, column, own, shared.choosers, sum);
        }
        shared.sum[thread_index()] = sum;
        sync_block();
        if (group == 0 && slice < slices) {
#pragma unroll
          for (int v = 0; v < Slice::kSize; ++v) {
            T value = sum.value[v];
            for (int g = 1; g < groups; ++g) value += shared.sum[thread_index() + g * at_once * kWarpSize].value[v];
            T* const total = sum_of(p, item, slice, v);
            *total = is_first ? value : *total + value;
          }
        }
        sync_block();
      }
    }
    if (thread_index() == 0) p.hubs.piece[item].own = own_scale;
  }

  AOQ_DEVICE static void add_pieces(const Params& p, int only, int64_t row, uint32_t first, int count) {
    RowTerms<T> terms = slopes_of_row<kSimilarity>(p, row);
    if constexpr (kFactors) finish_terms<kSimilarity>(p, row, terms);
    T own_scale = T(0);
    if constexpr (kSimilarity == Similarity::kCosine) {
      for (int i = lane_index(); i < count; i += kWarpSize) own_scale += load_fresh(&p.hubs.piece[first + i].own);
      own_scale = warp_sum(own_scale);
    }
    for (int64_t slice = warp_index(); slice < Slice::count(p.width); slice += kWarps) {
      const int64_t column = Slice::column(slice);
      Sum sum;
#pragma unroll 4
      for (int i = 0; i < count; ++i) {
#pragma unroll
        for (int v = 0; v < Slice::kSize; ++v) sum.value[v] += load_fresh(sum_of(p, first + i, slice, v));
      }
      Piece<Element> rows[kRoles];
      Block::load_rows(p, row, terms, column, rows);
#pragma unroll
      for (int map = 0; map < 2; ++map) {
        if (map == only) Block::write_gradient(p, map, row, terms, column, rows, own_scale, sum);
      }
    }
  }
};

// The whole pass: one launch, or two where there may be hubs.
template <class Element, Similarity kSimilarity>
void run_backward(const BackwardParams<Element>& params, cuda::Stream stream) {
  launch_all<QuintupletBackward<Element, kSimilarity>>(params, stream);
  if (params.hubs.piece) launch_all<HubBackward<Element, kSimilarity>>(params, stream);
}

}  // namespace aoq::device
