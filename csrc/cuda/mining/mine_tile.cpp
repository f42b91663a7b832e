// aoq::mine_tile on CUDA: check, allocate, launch.
#include <tuple>

#include "cuda/host/operator.h"
#include "cuda/mining/mining_plan.h"
#include "mine_checks.h"

namespace aoq::cuda {
namespace {

enum class Way : int64_t { kChoose = 0, kPlain = 1, kFilter = 2 };

using Outputs = std::tuple<Tensor, Tensor>;

// The tensors of one side; every pointer into them is valid while this lives.
class LoadedSide {
 public:
  LoadedSide(const Tensor& rows, int64_t first, const Tensor& before, const Tensor& keys)
      : rows_(aligned_rows(rows)),
        count_(rows.size(0)),
        first_(first),
        before_(torch::stable::contiguous(before)),
        keys_(keys) {}
  // A side without lists.
  LoadedSide(const Tensor& rows, int64_t first) : rows_(aligned_rows(rows)), count_(rows.size(0)), first_(first) {}

  void know(const std::optional<Tensor>& ids, const std::optional<Tensor>& labels, const std::optional<Tensor>& offsets,
            const std::optional<Tensor>& caps) {
    identity_ = {keep<int64_t>(ids), keep<int64_t>(labels), keep<int64_t>(offsets)};
    caps_ = keep<float>(caps);
  }

  int64_t width() const { return padded_width(rows_); }

  template <class Element>
  device::MiningSide<Element> get() const {
    device::Lists lists{};
    lists.count = count_;
    lists.caps = caps_;
    if (before_) {
      lists.k = before_->size(1);
      lists.before = data_of<const TopKKey>(*before_);
      lists.keys = data_of<TopKKey>(*keys_);
    }
    return {data_of<const Element>(rows_), rows_.stride(0), first_, identity_, lists};
  }

 private:
  template <class T>
  const T* keep(const std::optional<Tensor>& tensor) {
    return tensor ? data_of<const T>(kept_.emplace_back(torch::stable::contiguous(*tensor))) : nullptr;
  }

  Tensor rows_;
  int64_t count_, first_;
  std::optional<Tensor> before_, keys_;
  Identities identity_{};
  const float* caps_ = nullptr;
  std::vector<Tensor> kept_;
};

template <class Element>
void mine(const DeviceScope& scope, const LoadedSide& anchors, const LoadedSide& candidates, Way way, int64_t panel) {
  device::Mining<Element> mining{};
  mining.anchors = anchors.get<Element>();
  mining.candidates = candidates.get<Element>();
  mining.width = anchors.width();
  mining.multiplies_plainly = way == Way::kPlain;
  device::MiningBudget budget;
  if (panel > 0) budget.most_rows = panel;
  const device::Lists &rows = mining.anchors.lists, &columns = mining.candidates.lists;
  mining.choice = device::choose_mining(rows.count, columns.count, rows.k, columns.k, budget);
  const auto [memory, placed] = allocate(scope, [&](Arena& arena) { return device::take_mining(arena, mining); });
  device::run_mining(placed, scope.stream);
}

void check_lists(const Tensor& keys, const char* name) {
  STD_TORCH_CHECK(keys.size(1) <= device::kMostListed, name, " must have at most ", device::kMostListed,
                  " keys a list on CUDA, got ", keys.size(1));
}

Outputs mine_tile(Tensor anchors, Tensor candidates, Tensor anchor_keys, std::optional<Tensor> candidate_keys,
                  int64_t first_anchor, int64_t first_candidate, std::optional<Tensor> anchor_ids,
                  std::optional<Tensor> candidate_ids, std::optional<Tensor> anchor_labels,
                  std::optional<Tensor> anchor_offsets, std::optional<Tensor> candidate_labels,
                  std::optional<Tensor> candidate_offsets, std::optional<Tensor> anchor_caps,
                  std::optional<Tensor> candidate_caps, double, int64_t arithmetic, int64_t panel) {
  const TileArguments given{anchors,          candidates,        anchor_keys,   candidate_keys, first_anchor,
                            first_candidate,  anchor_ids,        candidate_ids, anchor_labels,  anchor_offsets,
                            candidate_labels, candidate_offsets, anchor_caps,   candidate_caps};
  check_tile(given);
  check_floating(anchors, "anchors");
  STD_TORCH_CHECK(anchors.scalar_type() != ScalarType::Double, "anchors must not be float64 on CUDA");
  check_lists(anchor_keys, "anchor_keys");
  if (candidate_keys) check_lists(*candidate_keys, "candidate_keys");
  const Way way = Way(arithmetic);
  check_enum(way, Way::kFilter, "arithmetic");
  const DeviceScope scope(anchors);
  cudaStreamCaptureStatus capture = cudaStreamCaptureStatusNone;
  STD_TORCH_CHECK(
      cudaStreamIsCapturing(scope.stream, &capture) == cudaSuccess && capture == cudaStreamCaptureStatusNone,
      "mine_tile cannot be captured into a CUDA graph: it asks the device which lists to mine again");
  const bool nothing = anchors.size(0) == 0 || candidates.size(0) == 0;
  const auto lists = [&](const Tensor& keys) {
    Tensor out = scope.empty({keys.size(0), keys.size(1)}, ScalarType::Long);
    if (nothing) torch::stable::copy_(out, keys);
    return out;
  };
  const Outputs out{lists(anchor_keys), candidate_keys ? lists(*candidate_keys) : scope.empty({0}, ScalarType::Long)};
  if (nothing) return out;
  LoadedSide rows(anchors, first_anchor, anchor_keys, std::get<0>(out));
  LoadedSide columns = candidate_keys ? LoadedSide(candidates, first_candidate, *candidate_keys, std::get<1>(out))
                                      : LoadedSide(candidates, first_candidate);
  rows.know(anchor_ids, anchor_labels, anchor_offsets, anchor_caps);
  columns.know(candidate_ids, candidate_labels, candidate_offsets, candidate_caps);
  switch (anchors.scalar_type()) {
    case ScalarType::Half: mine<Half>(scope, rows, columns, way, panel); break;
    case ScalarType::BFloat16: mine<BFloat16>(scope, rows, columns, way, panel); break;
    default: mine<float>(scope, rows, columns, way, panel);
  }
  return out;
}

}  // namespace
}  // namespace aoq::cuda

STABLE_TORCH_LIBRARY_IMPL(aoq, CUDA, m) { m.impl("mine_tile", TORCH_BOX(&aoq::cuda::mine_tile)); }
