// The sparse backward pass in one launch. A block owns a range of rows: it lists the anchors that chose them, and sums
// each gradient row, in an order that does not depend on scheduling, from whole slices that a warp reads once for all
// gradients of the anchor.
#pragma once

#include "cuda/device/choosers.cuh"
#include "cuda/device/pair_terms.cuh"

namespace aoq::device {

template <class E, Similarity kSimilarity>
struct QuintupletBackward {
  using Params = BackwardParams<E>;
  using Element = E;
  using T = Compute<Element>;
  using Slice = RowSlice<Element>;
  using Sum = typename Slice::Sum;
  static constexpr bool kFactors = kSimilarity != Similarity::kDot;  // slopes alone are not the rows' factors
  static constexpr bool kManyRegisters = kFactors || sizeof(T) == 8;
  static constexpr int kThreads = kManyRegisters ? 192 : 128, kBlocksPerProcessor = kManyRegisters ? 2 : 3;
  static constexpr int kWarps = kThreads / kWarpSize;
  static constexpr int kBatch = kFactors ? kWarps : kWarpSize;  // rows whose terms are in shared memory at a time
  using Lists = Choosers<T, kThreads>;

  struct Shared {
    typename Lists::Shared choosers;
    RowTerms<T> terms[kBatch];
    Sum hub_sum[2][kThreads];  // of a row whose choosers the whole block adds up: a warp's slice
    T hub_own[2];
  };

  static constexpr int kSharedBytes = sizeof(Shared);

  static int64_t blocks(const Params& p) { return (p.rows + p.rows_per_block - 1) / p.rows_per_block; }

  AOQ_DEVICE static void run(const Params& p) {
    Shared& shared = *reinterpret_cast<Shared*>(shared_memory());
    const int64_t first = int64_t(block_index()) * p.rows_per_block;
    const int64_t end = first + p.rows_per_block < p.rows ? first + p.rows_per_block : p.rows;
    for (int64_t row = first; row < end;) {
      int rows = 2 * int(end - row < Lists::kMaxRows ? end - row : Lists::kMaxRows), found[2];
      bool is_hub = true;
      do {  // a range whose lists do not fit is halved
        rows = (rows + 1) / 2;
        is_hub = collect(p, row, rows, 0, shared, found) < p.slopes.anchors;
      } while (is_hub && rows > 1);
      if (!is_hub) Lists::sort(shared.choosers, rows, found);
      for (int batch = 0; batch < rows; batch += kBatch) {
        const int count = rows - batch < kBatch ? rows - batch : kBatch;
        write_rows(p, row + batch, batch, count, is_hub, shared);
      }
      row += rows;
    }
  }

 private:
  AOQ_DEVICE static int64_t collect(const Params& p, int64_t row, int rows, int64_t from, Shared& shared,
                                    int (&found)[2]) {
    const ChoiceMap maps[2] = {{p.grad[kImageRow] ? p.image_index : nullptr, kByImage},
                               {p.grad[kTextRow] ? p.text_index : nullptr, kByText}};
    return Lists::collect(p.slopes, maps, p.first + row, rows, from, shared.choosers, found);
  }

  AOQ_DEVICE static const Element* chooser_row(const Params& p, int map, int anchor) {
    return row_at(map == 0 ? p.all_text : p.all_image, anchor);
  }

  AOQ_DEVICE static const Element* own_row(const Params& p, int map, int64_t row) {
    return row_at(map == 0 ? p.image : p.text, row);
  }

  // The slopes of choosers begin, …, end − 1 of one row become factors; a warp for each.
  AOQ_DEVICE static void finish_choosers(const Params& p, int map, int64_t row, int begin, int end, Shared& shared) {
    if constexpr (kFactors) {
      typename Lists::List& list = shared.choosers.list[map];
      const Element* own = own_row(p, map, row);
      for (int e = begin + warp_index(); e < end; e += kWarps) {
        const Element* other = chooser_row(p, map, list.anchor[e]);
        T own_square = T(0), other_square = T(0), product = T(0);
#pragma unroll 1
        for (int64_t slice = 0; slice < Slice::count(p.width); ++slice) {
          const Piece<Element> a = Slice::load(own, Slice::column(slice), p.width),
                               b = Slice::load(other, Slice::column(slice), p.width);
          product += map == 0 ? pair_product<kSimilarity>(a, b) : pair_product<kSimilarity>(b, a);
          if constexpr (kSimilarity == Similarity::kCosine) {
            own_square += pair_product<kSimilarity>(a, a);
            other_square += pair_product<kSimilarity>(b, b);
          }
        }
        const PairFactors<T> factors =
            pair_factors<kSimilarity>(list.scale[e], warp_sum(own_square), warp_sum(other_square), warp_sum(product));
        sync_warp();  // every lane has read the slope
        if (lane_index() == 0) {
          list.scale[e] = factors.other;
          list.own_scale()[e] = factors.own_x;
        }
      }
    }
  }

  // Adds every step-th of the choosers begin, …, end − 1 in this warp's slice; `own` is that slice of the chosen row.
  AOQ_DEVICE static void add_choosers(const Params& p, int map, int begin, int end, int step, int64_t column,
                                      const Piece<Element>& own, Shared& shared, Sum& sum) {
    constexpr int kAtOnce = 2;  // loads in flight
    const typename Lists::List& list = shared.choosers.list[map];
    for (int e = begin; e < end; e += kAtOnce * step) {
      Piece<Element> other[kAtOnce];
#pragma unroll
      for (int n = 0; n < kAtOnce; ++n) {
        const bool exists = e + n * step < end;
        other[n] = Slice::load(chooser_row(p, map, exists ? list.anchor[e + n * step] : 0), column, p.width, exists);
      }
#pragma unroll
      for (int n = 0; n < kAtOnce; ++n) {
        const T scale = e + n * step < end ? list.scale[e + n * step] : T(0);
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
  AOQ_DEVICE static T sum_own_scales(int map, int begin, int end, Shared& shared) {
    if constexpr (kSimilarity != Similarity::kCosine) return T(0);
    T sum = T(0);
    for (int e = begin + lane_index(); e < end; e += kWarpSize) sum += shared.choosers.list[map].own_scale()[e];
    return warp_sum(sum);
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

  // Rows `row`, row + 1, … of which the first is the range's row `listed`. The choosers of a hub do not fit a list:
  // they are summed before, for as many slices as there are warps.
  AOQ_DEVICE static void write_rows(const Params& p, int64_t row, int listed, int rows, bool is_hub, Shared& shared) {
    const int64_t slices = Slice::count(p.width);
    const int64_t at_once = is_hub && slices > kWarps ? kWarps : slices;
    prepare(p, row, rows, shared);
    for (int64_t round = 0; round < slices; round += at_once) {
      if (is_hub) {
        sum_hub(p, row, round, int(at_once), shared);
      } else {
#pragma unroll
        for (int map = 0; map < 2; ++map) {
          const int* start = shared.choosers.list[map].start + listed;
          for (int r = 0; kFactors && r < rows; ++r) finish_choosers(p, map, row + r, start[r], start[r + 1], shared);
        }
      }
      sync_block();
      for (int64_t item = warp_index(); item < rows * at_once; item += kWarps) {
        const int r = int(item / at_once);
        const int64_t column = Slice::column(round + item % at_once);
        const RowTerms<T>& terms = shared.terms[r];
        Piece<Element> pieces[kRoles];
        load_rows(p, row + r, terms, column, pieces);
        write_slice(p, row + r, listed + r, terms, column, pieces, is_hub, shared);
      }
      sync_block();
    }
  }

  // The sums over the choosers of one row, list after list; warp w has slice `round` + w. Where there are fewer slices
  // than warps, the choosers are shared too: of `groups` groups, each takes every groups-th, and they are added in
  // order.
  AOQ_DEVICE static void sum_hub(const Params& p, int64_t row, int64_t round, int at_once, Shared& shared) {
    const int groups = kWarps / at_once, group = warp_index() / at_once;  // the last warps may be left over
    const int64_t column = Slice::column(round + warp_index() % at_once);
    Sum sum[2];
    T own_scale[2] = {};
    for (int64_t from = 0; from < p.slopes.anchors;) {
      int found[2];
      from = collect(p, row, 1, from, shared, found);
      Lists::sort(shared.choosers, 1, found);
#pragma unroll
      for (int map = 0; map < 2; ++map) finish_choosers(p, map, row, 0, found[map], shared);
      sync_block();
#pragma unroll
      for (int map = 0; map < 2; ++map) {
        const Piece<Element> own = Slice::load(own_row(p, map, row), column, p.width, p.grad[map] != nullptr);
        const int end = group < groups ? found[map] : 0;
        add_choosers(p, map, group, end, groups, column, own, shared, sum[map]);
        own_scale[map] += sum_own_scales(map, 0, found[map], shared);
      }
      sync_block();
    }
#pragma unroll
    for (int map = 0; map < 2; ++map) {
      shared.hub_sum[map][thread_index()] = sum[map];
      if (thread_index() == 0) shared.hub_own[map] = own_scale[map];
    }
    sync_block();
    if (group > 0) return;
#pragma unroll
    for (int map = 0; map < 2; ++map) {
      for (int g = 1; g < groups; ++g) {
        const Sum& other = shared.hub_sum[map][thread_index() + g * at_once * kWarpSize];
        for (int v = 0; v < Slice::kSize; ++v) sum[map].value[v] += other.value[v];
      }
      shared.hub_sum[map][thread_index()] = sum[map];
    }
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

  // One slice of every gradient row of an anchor.
  AOQ_DEVICE static void write_slice(const Params& p, int64_t row, int listed, const RowTerms<T>& terms, int64_t column,
                                     const Piece<Element> (&rows)[kRoles], bool is_hub, Shared& shared) {
#pragma unroll
    for (int grad = 0; grad < kGradients; ++grad) {
      if (!p.grad[grad]) continue;
      Sum sum;
      if (grad == kImageRow || grad == kTextRow) {
        const int map = grad;
        if (is_hub) {
          sum = shared.hub_sum[map][thread_index()];
          if constexpr (kSimilarity == Similarity::kCosine) add_scaled(sum, shared.hub_own[map], rows[map]);
        } else {
          const int* start = shared.choosers.list[map].start + listed;
          add_choosers(p, map, start[0], start[1], 1, column, rows[map], shared, sum);
          if constexpr (kSimilarity == Similarity::kCosine) {
            add_scaled(sum, sum_own_scales(map, start[0], start[1], shared), rows[map]);
          }
        }
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

}  // namespace aoq::device
