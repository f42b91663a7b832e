// What a block of the sparse backward pass does with the rows it owns, in both launches.
#pragma once

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

}  // namespace aoq::device
