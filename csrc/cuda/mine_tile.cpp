// aoq::mine_tile on CUDA: check, allocate, launch.
#include <tuple>

#include "cuda/host.h"
#include "cuda/mining_plan.h"
#include "mine_tile_inputs.h"

namespace aoq::cuda {
namespace {

enum class Way : int64_t { kChoose = 0, kPlain = 1, kFilter = 2 };

using Outputs = std::tuple<Tensor, Tensor>;

template <class T>
const T* values_of(const std::optional<Tensor>& tensor) {
  return tensor ? data_of<const T>(*tensor) : nullptr;
}

// `rows` are aligned; `keys` (count, k) become the lists.
template <class Element>
device::MiningSide<Element> load_side(const MinedSide& side, const Tensor& rows, const Tensor& keys) {
  device::Lists lists{};
  lists.count = side.rows.size(0);
  lists.caps = values_of<float>(side.caps);
  if (side.keys) {
    lists.k = side.keys->size(1);
    lists.before = values_of<TopKKey>(side.keys);
    lists.keys = data_of<TopKKey>(keys);
  }
  return {data_of<const Element>(rows), rows.stride(0), side.first,
          Identities{values_of<int64_t>(side.ids), values_of<int64_t>(side.labels), values_of<int64_t>(side.offsets)},
          lists};
}

template <class Element>
void mine(const DeviceScope& scope, const MinedSides& sides, Way way, int64_t panel, const Outputs& out) {
  const Tensor anchor_rows = aligned_rows(sides.anchors.rows), candidate_rows = aligned_rows(sides.candidates.rows);
  device::Mining<Element> mining{};
  mining.anchors = load_side<Element>(sides.anchors, anchor_rows, std::get<0>(out));
  mining.candidates = load_side<Element>(sides.candidates, candidate_rows, std::get<1>(out));
  mining.width = padded_width(anchor_rows);
  mining.multiplies_plainly = way == Way::kPlain;
  device::MiningBudget budget;
  if (panel > 0) budget.most_rows = panel;
  const device::Lists &anchors = mining.anchors.lists, &candidates = mining.candidates.lists;
  mining.choice = device::choose_mining(anchors.count, candidates.count, anchors.k, candidates.k, budget);
  const auto [memory, placed] = allocate(scope, [&](Arena& arena) { return device::take_mining(arena, mining); });
  device::run_mining(placed, scope.stream);
}

// A contiguous copy; without lists, an empty tensor.
Tensor copy_of(const DeviceScope& scope, const std::optional<Tensor>& keys, bool empty) {
  if (!keys) return scope.empty({0}, ScalarType::Long);
  Tensor copy = scope.empty({keys->size(0), keys->size(1)}, ScalarType::Long);
  if (!empty) torch::stable::copy_(copy, *keys);
  return copy;
}

Outputs mine_tile(Tensor anchors, Tensor candidates, Tensor anchor_keys, std::optional<Tensor> candidate_keys,
                  int64_t first_anchor, int64_t first_candidate, std::optional<Tensor> anchor_ids,
                  std::optional<Tensor> candidate_ids, std::optional<Tensor> anchor_labels,
                  std::optional<Tensor> anchor_offsets, std::optional<Tensor> candidate_labels,
                  std::optional<Tensor> candidate_offsets, std::optional<Tensor> anchor_caps,
                  std::optional<Tensor> candidate_caps, double, int64_t arithmetic, int64_t panel) {
  const MinedSides sides({anchors, anchor_keys, first_anchor, anchor_ids, anchor_labels, anchor_offsets, anchor_caps},
                         {candidates, candidate_keys, first_candidate, candidate_ids, candidate_labels,
                          candidate_offsets, candidate_caps});
  STD_TORCH_CHECK(anchors.scalar_type() != ScalarType::Double, "anchors must not be float64 on CUDA");
  for (const auto& keys : {sides.anchors.keys, sides.candidates.keys}) {
    STD_TORCH_CHECK(!keys || keys->size(1) <= device::kMostListed, "lists must have at most ", device::kMostListed,
                    " keys on CUDA");
  }
  const Way way = check_enum(arithmetic, Way::kFilter, "arithmetic");
  const DeviceScope scope(anchors);
  const bool nothing = anchors.size(0) == 0 || candidates.size(0) == 0;
  const Outputs out{copy_of(scope, sides.anchors.keys, !nothing), copy_of(scope, sides.candidates.keys, !nothing)};
  if (nothing) return out;
  switch (anchors.scalar_type()) {
    case ScalarType::Half: mine<Half>(scope, sides, way, panel, out); break;
    case ScalarType::BFloat16: mine<BFloat16>(scope, sides, way, panel, out); break;
    default: mine<float>(scope, sides, way, panel, out);
  }
  return out;
}

}  // namespace
}  // namespace aoq::cuda

STABLE_TORCH_LIBRARY_IMPL(aoq, CUDA, m) { m.impl("mine_tile", TORCH_BOX(&aoq::cuda::mine_tile)); }
