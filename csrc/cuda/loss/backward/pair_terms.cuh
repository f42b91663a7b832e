// An anchor's loss depends on the scores of seven pairs of rows. Here: the factor with which each row of a pair enters
// the gradient of the other. With cosine similarity a row enters its own gradient as well: for u = x/‖x‖, v = y/‖y‖,
//     ∂(u·v)/∂x = (v − (u·v) u) / ‖x‖.
#pragma once

#include <cmath>

#include "cuda/loss/backward/backward_params.h"
#include "cuda/loss/backward/choosers.cuh"
#include "cuda/loss/backward/row_slice.cuh"

namespace aoq::device {

enum Role : int { kX, kY, kHardY, kHardX, kPartnerX, kPartnerY, kTextNegative, kImageNegative, kRoles };

inline constexpr int kNoGradient = -1;  // a negative's row receives its part as the row of its own anchor

struct PairRoles {
  SavedRow slope;
  Role image, text;
  int image_grad, text_grad;
};

inline constexpr int kPairs = 7;

AOQ_DEVICE constexpr PairRoles pair_roles(int pair) {
  switch (pair) {
    case 0: return {kBySelf, kX, kY, kImageRow, kTextRow};
    case 1: return {kByText, kX, kTextNegative, kImageRow, kNoGradient};
    case 2: return {kByImage, kImageNegative, kY, kNoGradient, kTextRow};
    case 3: return {kByHardText, kX, kHardY, kImageRow, kHardText};
    case 4: return {kByHardImage, kHardX, kY, kHardImage, kTextRow};
    case 5: return {kByHardPair, kHardX, kHardY, kHardImage, kHardText};
    default: return {kByPartner, kPartnerX, kPartnerY, kHardTextImage, kHardImageText};
  }
}

// The place of a slope among the pairs, which are in the order of SavedRow.
AOQ_DEVICE constexpr int pair_of(SavedRow slope) { return int(slope) - int(kBySelf); }

// One row's share of the backward pass, prepared once for all slices of its columns.
template <class T>
struct RowTerms {
  T scale[kPairs];       // of the one row in the gradient of the other
  T own[kTextNegative];  // of a row in its own gradient, by role; cosine alone
  int64_t text, image;   // the anchor's negatives, −1 for none
  int64_t text_choice, image_choice;
  unsigned wanted;  // bit r: the row of role r is read
};

template <class T>
AOQ_DEVICE T inverse_norm(T square) {
  return square == T(0) ? T(0) : T(1) / std::sqrt(square);
}

// The row of anchor or candidate index i in an operand.
template <class Element>
AOQ_DEVICE const Element* row_at(const AnchorRows<Element>& rows, int64_t i, int64_t candidate = 0) {
  return rows.data + i * rows.stride + candidate * rows.candidate_stride;
}

template <class Element, class T>
AOQ_DEVICE void find_rows(const BackwardParams<Element>& p, int64_t i, const RowTerms<T>& terms,
                          const Element* (&rows)[kRoles]) {
  rows[kX] = row_at(p.image, i);
  rows[kY] = row_at(p.text, i);
  rows[kHardY] = row_at(p.hard_text, i, terms.text_choice);
  rows[kHardX] = row_at(p.hard_image, i, terms.image_choice);
  rows[kPartnerX] = row_at(p.hard_text_image, i, terms.text_choice);
  rows[kPartnerY] = row_at(p.hard_image_text, i, terms.image_choice);
  rows[kTextNegative] = row_at(p.all_text, terms.text < 0 ? 0 : terms.text);
  rows[kImageNegative] = row_at(p.all_image, terms.image < 0 ? 0 : terms.image);
}

// Slopes, indices and which rows are to be read; with dot similarity that is all.
template <Similarity kSimilarity, class Element>
AOQ_DEVICE RowTerms<Compute<Element>> slopes_of_row(const BackwardParams<Element>& p, int64_t i) {
  using T = Compute<Element>;
  const int64_t anchor = p.first + i;
  const auto valid = [](int64_t index, int64_t limit, int64_t otherwise) {
    return index >= 0 && index < limit ? index : otherwise;
  };
  RowTerms<T> terms{};
  terms.text = p.all_text.data ? valid(p.text_index[anchor], p.slopes.anchors, -1) : -1;
  terms.image = p.all_image.data ? valid(p.image_index[anchor], p.slopes.anchors, -1) : -1;
  terms.text_choice = p.hard_text.data ? valid(p.choice[i], p.hard_text.candidates, 0) : 0;
  terms.image_choice = p.hard_image.data ? valid(p.choice[p.rows + i], p.hard_image.candidates, 0) : 0;
  const bool exists[kPairs] = {true,
                               terms.text >= 0,
                               terms.image >= 0,
                               p.hard_text.data != nullptr,
                               p.hard_image.data != nullptr,
                               p.hard_text_image.data != nullptr,
                               p.hard_text_image.data != nullptr};
  const auto needed = [&](int grad) { return grad != kNoGradient && p.grad[grad < 0 ? 0 : grad] != nullptr; };
#pragma unroll
  for (int pair = 0; pair < kPairs; ++pair) {
    const PairRoles roles = pair_roles(pair);
    const bool by_image = needed(roles.image_grad), by_text = needed(roles.text_grad);
    if (!exists[pair] || !(by_image || by_text)) continue;
    const T slope = loss_slope(p.slopes, roles.slope, anchor);
    terms.scale[pair] = slope;
    if (slope == T(0)) continue;
    const bool both = kSimilarity != Similarity::kDot;
    terms.wanted |= unsigned(by_image || both) << roles.text | unsigned(by_text || both) << roles.image;
  }
  if constexpr (kSimilarity != Similarity::kDot) {  // choosers need the row that they chose
    terms.wanted |= unsigned(needed(kImageRow)) << kX | unsigned(needed(kTextRow)) << kY;
  }
  return terms;
}

// A lane's share of x·y, or of ‖max(0, y − x)‖² with order similarity.
template <Similarity kSimilarity, class Element>
AOQ_DEVICE Compute<Element> pair_product(const Piece<Element>& x, const Piece<Element>& y) {
  using T = Compute<Element>;
  T sum = T(0);
#pragma unroll
  for (int v = 0; v < kPieceSize<Element>; ++v) {
    if constexpr (kSimilarity == Similarity::kOrder) {
      const T part = positive_part(widen(y.element[v]) - widen(x.element[v]));
      sum += part * part;
    } else {
      sum += widen(x.element[v]) * widen(y.element[v]);
    }
  }
  return sum;
}

// A pair's factors: of each row in the other's gradient, and of each in its own.
template <class T>
struct PairFactors {
  T other, own_x, own_y;
};

template <Similarity kSimilarity, class T>
AOQ_DEVICE PairFactors<T> pair_factors(T slope, T xx, T yy, T xy) {
  if (slope == T(0)) return {T(0), T(0), T(0)};
  if constexpr (kSimilarity == Similarity::kOrder) {  // ∂sim/∂x = max(0, y − x) / ‖max(0, y − x)‖ = −∂sim/∂y
    return {slope * inverse_norm(xy), T(0), T(0)};
  } else {
    const T inverse_x = inverse_norm(xx), inverse_y = inverse_norm(yy), along = slope * (xy * inverse_x * inverse_y);
    return {slope * inverse_x * inverse_y, -along * inverse_x * inverse_x, -along * inverse_y * inverse_y};
  }
}

// From slopes to factors, by a whole warp: one walk over the eight rows of the anchor.
template <Similarity kSimilarity, class Element>
AOQ_DEVICE void finish_terms(const BackwardParams<Element>& p, int64_t i, RowTerms<Compute<Element>>& terms) {
  using Slice = RowSlice<Element>;
  using T = Compute<Element>;
  const Element* rows[kRoles];
  find_rows(p, i, terms, rows);
  T square[kRoles] = {}, product[kPairs] = {}, dense[2] = {};
  const T* dense_row[2] = {p.dense_image, p.dense_text};
#pragma unroll 1
  for (int64_t slice = 0; slice < Slice::count(p.width); ++slice) {
    const int64_t column = Slice::column(slice);
    Piece<Element> piece[kRoles];
#pragma unroll
    for (int role = 0; role < kRoles; ++role) {
      piece[role] = Slice::load(rows[role], column, p.width, terms.wanted >> role & 1);
    }
#pragma unroll
    for (int pair = 0; pair < kPairs; ++pair) {
      const PairRoles roles = pair_roles(pair);
      product[pair] += pair_product<kSimilarity>(piece[roles.image], piece[roles.text]);
    }
    if constexpr (kSimilarity == Similarity::kCosine) {
#pragma unroll
      for (int role = 0; role < kRoles; ++role) square[role] += pair_product<kSimilarity>(piece[role], piece[role]);
      for (int side = 0; side < 2; ++side) {
        if (!dense_row[side]) continue;
        for (int v = 0; v < Slice::kSize; ++v) {
          if (column + v < p.width) {
            dense[side] += widen(piece[side].element[v]) * dense_row[side][i * p.width + column + v];
          }
        }
      }
    }
  }
#pragma unroll
  for (int role = 0; role < kRoles; ++role) {
    if constexpr (kSimilarity == Similarity::kCosine) square[role] = warp_sum(square[role]);
  }
#pragma unroll
  for (int pair = 0; pair < kPairs; ++pair) {
    const PairRoles roles = pair_roles(pair);
    const PairFactors<T> factors =
        pair_factors<kSimilarity>(terms.scale[pair], square[roles.image], square[roles.text], warp_sum(product[pair]));
    terms.scale[pair] = factors.other;
    if (roles.image_grad != kNoGradient) terms.own[roles.image] += factors.own_x;
    if (roles.text_grad != kNoGradient) terms.own[roles.text] += factors.own_y;
  }
  if constexpr (kSimilarity == Similarity::kCosine) {  // the dense gradients lack what runs along the row
#pragma unroll
    for (int side = 0; side < 2; ++side) {
      if (!dense_row[side]) continue;
      const T inverse = inverse_norm(square[side]);
      terms.own[side] -= warp_sum(dense[side]) * inverse * inverse;
    }
  }
}

}  // namespace aoq::device
