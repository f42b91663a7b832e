// The arguments of mine_tile, and what must hold of them on every device.
#pragma once

#include <optional>

#include "checks.h"

namespace aoq {

// As in aoq_ext/mining/tile.py.
struct TileArguments {
  const Tensor &anchors, &candidates;           // (n, D), (m, D)
  const Tensor& anchor_keys;                    // (n, k) int64
  const std::optional<Tensor>& candidate_keys;  // (m, k') int64
  int64_t first_anchor, first_candidate;
  const std::optional<Tensor>&anchor_ids, &candidate_ids;            // (n,), (m,) int64
  const std::optional<Tensor>&anchor_labels, &anchor_offsets;        // (L,), (n + 1,) int64
  const std::optional<Tensor>&candidate_labels, &candidate_offsets;  // (L',), (m + 1,) int64
  const std::optional<Tensor>&anchor_caps, &candidate_caps;          // (n,), (m,) float32
};

inline void check_rows(const Tensor& rows, const char* name) {
  STD_TORCH_CHECK(rows.dim() == 2 && rows.size(1) > 0, name, " must have shape (rows, D) with D ≥ 1");
}

inline void check_keys(const Tensor& keys, const TileArguments& given, int64_t rows, const char* name) {
  STD_TORCH_CHECK(keys.dim() == 2 && keys.size(0) == rows && keys.size(1) > 0, name, " must have shape (", rows,
                  ", k) with k ≥ 1");
  STD_TORCH_CHECK(keys.scalar_type() == ScalarType::Long, name, " must be int64");
  check_device(keys, given.anchors, name, "anchors");
}

inline void check_optional(const std::optional<Tensor>& tensor, const TileArguments& given, int64_t length,
                           ScalarType dtype, const char* name) {
  if (!tensor) return;
  check_vector(*tensor, length, dtype, name);
  check_device(*tensor, given.anchors, name, "anchors");
}

// Offsets are not read here, for they may be on a GPU: that they rise and stay within the labels is for the caller.
inline void check_labels(const std::optional<Tensor>& labels, const std::optional<Tensor>& offsets,
                         const TileArguments& given, int64_t rows, const char* name) {
  STD_TORCH_CHECK(labels.has_value() == offsets.has_value(), name, " and their offsets must be given together");
  if (!labels) return;
  STD_TORCH_CHECK(labels->dim() == 1 && labels->scalar_type() == ScalarType::Long, name, " must be a vector of int64");
  check_device(*labels, given.anchors, name, "anchors");
  check_optional(offsets, given, rows + 1, ScalarType::Long, name);
}

inline void check_first(int64_t first, int64_t rows, const char* name) {
  constexpr int64_t kMostIndex = (int64_t(1) << 32) - 2;  // a key holds 32 bits of an index
  STD_TORCH_CHECK(first >= 0 && first <= kMostIndex - rows, name, " must keep indices below 2^32 - 2, got ", first);
}

inline void check_tile(const TileArguments& given) {
  const Tensor &anchors = given.anchors, &candidates = given.candidates;
  check_rows(anchors, "anchors");
  check_rows(candidates, "candidates");
  STD_TORCH_CHECK(candidates.size(1) == anchors.size(1), "candidates must have the D of anchors");
  STD_TORCH_CHECK(candidates.scalar_type() == anchors.scalar_type(), "candidates must have the dtype of anchors");
  check_device(candidates, anchors, "candidates", "anchors");
  const int64_t n = anchors.size(0), m = candidates.size(0);
  check_keys(given.anchor_keys, given, n, "anchor_keys");
  if (given.candidate_keys) check_keys(*given.candidate_keys, given, m, "candidate_keys");
  check_first(given.first_anchor, n, "first_anchor");
  check_first(given.first_candidate, m, "first_candidate");
  STD_TORCH_CHECK(given.anchor_ids.has_value() == given.candidate_ids.has_value(),
                  "both ids must be given, or neither");
  check_optional(given.anchor_ids, given, n, ScalarType::Long, "anchor_ids");
  check_optional(given.candidate_ids, given, m, ScalarType::Long, "candidate_ids");
  STD_TORCH_CHECK(given.anchor_labels.has_value() == given.candidate_labels.has_value(),
                  "both labels must be given, or neither");
  check_labels(given.anchor_labels, given.anchor_offsets, given, n, "anchor_labels");
  check_labels(given.candidate_labels, given.candidate_offsets, given, m, "candidate_labels");
  check_optional(given.anchor_caps, given, n, ScalarType::Float, "anchor_caps");
  check_optional(given.candidate_caps, given, m, ScalarType::Float, "candidate_caps");
}

}  // namespace aoq
