// The selection alone on CUDA: the hardest negative of every image and of every text.
#include <tuple>

#include "cuda/loss/forward/embeddings.h"
#include "cuda/loss/workspace.h"

namespace aoq::cuda {
namespace {

using Outputs = std::tuple<Tensor, Tensor, Tensor, Tensor>;

template <class Element>
Outputs select(const DeviceScope& scope, LoadedEmbeddings<Element> loaded, const std::optional<Tensor>& groups) {
  using T = Compute<Element>;
  auto& rows = loaded.rows;
  const int64_t count = rows.image.count;
  const Tensor text_index = scope.empty({count}, ScalarType::Long), text_score = scope.empty({count}, kScalarType<T>);
  const Tensor image_index = scope.empty({count}, ScalarType::Long), image_score = scope.empty({count}, kScalarType<T>);
  const bool packed = device::has_packed_keys<Element>(Online::kHardest);
  const int64_t keys = packed ? count : 0, walked = packed ? 0 : count;
  const auto [memory, buffers] =
      allocate(scope, [&](Arena& arena) { return device::take_walk<T>(arena, walked, walked); });
  WorkspaceLease workspace(scope, keys, keys);
  const device::NegativeRules<T> rules{count, count, 0, groups ? data_of<const int64_t>(*groups) : nullptr, nullptr};
  run_online_negatives(rows, rules, Online::kHardest, 0, workspace.get(), buffers,
                       device::NegativeOutputs<T>{{}, data_of<int64_t>(text_index), data_of<T>(text_score)},
                       device::NegativeOutputs<T>{{}, data_of<int64_t>(image_index), data_of<T>(image_score)},
                       scope.stream);
  workspace.release_clean();
  return {text_index, text_score, image_index, image_score};
}

Outputs hardest_negatives(Tensor image, Tensor text, std::optional<Tensor> group_ids, bool allow_tf32) {
  LossParams params{};  // online triplets, of dot products
  params.allow_tf32 = allow_tf32;
  const EmbeddingOperands given = checked({image, text}, params.objective);
  const DeviceScope scope(image);
  const std::optional<Tensor> groups = load_group_ids(group_ids, image, image.size(0));
  return dispatch_element(
      image, [&](auto zero) { return select(scope, LoadedEmbeddings<decltype(zero)>(given, params), groups); });
}

}  // namespace
}  // namespace aoq::cuda

STABLE_TORCH_LIBRARY_IMPL(aoq, CUDA, m) { m.impl("hardest_negatives", TORCH_BOX(&aoq::cuda::hardest_negatives)); }
