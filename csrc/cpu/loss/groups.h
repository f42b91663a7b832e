// Group ids in the width of the score keys, so that masking a row is one vector comparison.
#pragma once

#include <algorithm>
#include <limits>
#include <optional>
#include <vector>

#include "checks.h"
#include "math/order.h"

namespace aoq::cpu {

// (B,) ids, equal where the given ids are equal; empty without group_ids.
template <class T>
std::vector<Key<T>> load_groups(const std::optional<Tensor>& group_ids, int64_t count) {
  if (!group_ids) return {};
  const Tensor ids = torch::stable::contiguous(torch::stable::to(*group_ids, ScalarType::Long));
  check_vector(ids, count, ScalarType::Long, "group_ids");
  const auto* values = static_cast<const int64_t*>(ids.const_data_ptr());
  const auto fits = [](int64_t id) {
    return id >= std::numeric_limits<Key<T>>::min() && id <= std::numeric_limits<Key<T>>::max();
  };
  if (std::all_of(values, values + count, fits)) return {values, values + count};
  std::vector<int64_t> distinct(values, values + count);
  std::sort(distinct.begin(), distinct.end());
  distinct.erase(std::unique(distinct.begin(), distinct.end()), distinct.end());
  std::vector<Key<T>> ranks(count);
  for (int64_t i = 0; i < count; ++i) {
    ranks[i] = Key<T>(std::lower_bound(distinct.begin(), distinct.end(), values[i]) - distinct.begin());
  }
  return ranks;
}

}  // namespace aoq::cpu
