// The second launch of the sparse backward pass: the rows that many anchors chose, each shared among blocks.
#pragma once

#include "cuda/device/last_block.cuh"
#include "cuda/loss/backward/sparse_block.cuh"

namespace aoq::device {

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

}  // namespace aoq::device
