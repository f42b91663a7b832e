// Forward pass on CUDA: check, allocate, launch.
#include <tuple>

#include "cuda/loss/forward/embeddings.h"
#include "cuda/loss/workspace.h"

namespace aoq::cuda {
namespace {

using Outputs = std::tuple<Tensor, Tensor, Tensor, Tensor, Tensor>;

template <class Element>
Outputs forward(const DeviceScope& scope, LoadedEmbeddings<Element> loaded, const std::optional<Tensor>& groups,
                const LossParams& params) {
  using T = Compute<Element>;
  auto& rows = loaded.rows;
  const int64_t count = rows.image.count;
  const bool each = params.reduction == Reduction::kNone;
  const Tensor loss = scope.empty(each ? std::vector{count} : std::vector<int64_t>{}, kScalarType<T>);
  const Tensor saved = scope.empty({kSavedRows, count}, kScalarType<T>);
  const Tensor text_index = scope.empty({count}, ScalarType::Long),
               image_index = scope.empty({count}, ScalarType::Long);
  const Tensor choice = scope.empty({2, count}, ScalarType::Long);
  auto* const chosen = data_of<int64_t>(choice);
  const auto [memory, buffers] =
      allocate(scope, [&](Arena& arena) { return take_forward(arena, rows, params.online, chosen); });
  const int64_t keys = device::has_packed_keys<Element>(params.online) ? count : 0;
  WorkspaceLease workspace(scope, keys, keys);
  const device::FinishOutputs<T> out{data_of<T>(saved),
                                     each ? data_of<T>(loss) : nullptr,
                                     each ? nullptr : data_of<T>(loss),
                                     data_of<int64_t>(text_index),
                                     data_of<int64_t>(image_index),
                                     chosen};
  run_forward(rows, groups ? data_of<const int64_t>(*groups) : nullptr, params, workspace.get(), buffers, out,
              scope.stream);
  workspace.release_clean();
  return {loss, text_index, image_index, choice, saved};
}

Outputs quintuplet_forward(Tensor image, Tensor text, std::optional<Tensor> hard_image, std::optional<Tensor> hard_text,
                           std::optional<Tensor> hard_text_image, std::optional<Tensor> hard_image_text,
                           std::optional<Tensor> group_ids, Numbers numbers, Codes codes) {
  const LossParams params = loss_params(numbers, codes);
  const EmbeddingOperands given =
      checked({image, text, hard_image, hard_text, hard_text_image, hard_image_text}, params.objective);
  const DeviceScope scope(image);
  const std::optional<Tensor> groups = load_group_ids(group_ids, image, image.size(0));
  return dispatch_element(image, [&](auto zero) {
    return forward(scope, LoadedEmbeddings<decltype(zero)>(given, params), groups, params);
  });
}

}  // namespace
}  // namespace aoq::cuda

STABLE_TORCH_LIBRARY_IMPL(aoq, CUDA, m) { m.impl("quintuplet_forward", TORCH_BOX(&aoq::cuda::quintuplet_forward)); }
