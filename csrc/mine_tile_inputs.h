// The inputs of aoq::mine_tile, checked, for every device; aoq_ext/mining/tile.py says what they mean.
#pragma once

#include "checks.h"

namespace aoq {

// What is known of the rows of one side; ids and labels are there for both sides or for none.
struct MinedSide {
  Tensor rows;                                       // (count, D)
  std::optional<Tensor> keys;                        // (count, k) int64, contiguous
  int64_t first;                                     // the number of row 0 among all
  std::optional<Tensor> ids, labels, offsets, caps;  // (count,), (L,), (count + 1,) int64; (count,) float32
};

inline std::optional<Tensor> checked_vector(const std::optional<Tensor>& values, const Tensor& rows, int64_t length,
                                            ScalarType dtype, const char* name) {
  if (!values) return std::nullopt;
  STD_TORCH_CHECK(values->device() == rows.device(), name, " must be on the device of anchors");
  check_vector(*values, length, dtype, name);
  return torch::stable::contiguous(*values);
}

inline std::optional<Tensor> checked_keys(const std::optional<Tensor>& keys, const Tensor& rows, const char* name) {
  if (!keys) return std::nullopt;
  STD_TORCH_CHECK(keys->dim() == 2 && keys->size(0) == rows.size(0) && keys->size(1) > 0, name, " must have shape (",
                  rows.size(0), ", k) with k ≥ 1");
  STD_TORCH_CHECK(keys->scalar_type() == ScalarType::Long, name, " must be int64");
  STD_TORCH_CHECK(keys->device() == rows.device(), name, " must be on the device of anchors");
  return torch::stable::contiguous(*keys);
}

// Names of the arguments of one side.
struct MinedNames {
  const char *rows, *keys, *first, *ids, *labels, *offsets, *caps;
};
inline constexpr MinedNames kAnchorNames{"anchors",       "anchor_keys",    "first_anchor", "anchor_ids",
                                         "anchor_labels", "anchor_offsets", "anchor_caps"};
inline constexpr MinedNames kCandidateNames{"candidates",       "candidate_keys",    "first_candidate", "candidate_ids",
                                            "candidate_labels", "candidate_offsets", "candidate_caps"};

inline MinedSide checked_side(const MinedSide& given, const MinedNames& names) {
  constexpr int64_t kMostIndex = (int64_t(1) << 32) - 2;  // indices have 32 bits in a key
  const Tensor& rows = given.rows;
  check_floating(rows, names.rows);
  STD_TORCH_CHECK(rows.dim() == 2 && rows.size(1) > 0, names.rows, " must have shape (rows, D) with D ≥ 1");
  STD_TORCH_CHECK(given.first >= 0 && given.first + rows.size(0) <= kMostIndex + 1, names.first,
                  " must number rows from 0 to 2^32 − 2, got ", given.first);
  STD_TORCH_CHECK(given.labels.has_value() == given.offsets.has_value(), names.labels, " and ", names.offsets,
                  " must be given together");
  const int64_t count = rows.size(0), values = given.labels ? given.labels->numel() : 0;
  return {rows,
          checked_keys(given.keys, rows, names.keys),
          given.first,
          checked_vector(given.ids, rows, count, ScalarType::Long, names.ids),
          checked_vector(given.labels, rows, values, ScalarType::Long, names.labels),
          checked_vector(given.offsets, rows, count + 1, ScalarType::Long, names.offsets),
          checked_vector(given.caps, rows, count, ScalarType::Float, names.caps)};
}

// Both sides of a tile; of what is known of one side alone nothing follows.
struct MinedSides {
  MinedSide anchors, candidates;

  MinedSides(const MinedSide& given_anchors, const MinedSide& given_candidates)
      : anchors(checked_side(given_anchors, kAnchorNames)),
        candidates(checked_side(given_candidates, kCandidateNames)) {
    const Tensor &left = anchors.rows, &right = candidates.rows;
    STD_TORCH_CHECK(right.scalar_type() == left.scalar_type(), "candidates must have the dtype of anchors");
    STD_TORCH_CHECK(right.device() == left.device(), "candidates must be on the device of anchors");
    STD_TORCH_CHECK(right.size(1) == left.size(1), "candidates must have the D of anchors, ", left.size(1));
    if (!anchors.ids || !candidates.ids) anchors.ids = candidates.ids = std::nullopt;
    if (!anchors.labels || !candidates.labels) {
      anchors.labels = anchors.offsets = candidates.labels = candidates.offsets = std::nullopt;
    }
  }
};

}  // namespace aoq
