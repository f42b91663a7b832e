// The loss of a given score matrix on CUDA: check, allocate, launch.
#include <tuple>

#include "cuda/loss/backward/backward_inputs.h"
#include "cuda/loss/score/score_plan.h"
#include "cuda/loss/workspace.h"

namespace aoq::cuda {
namespace {

template <class Element>
device::Product<Element> loaded_scores(const Tensor& scores) {  // contiguous
  return device::given_scores(data_of<const Element>(scores), scores.size(1), scores.size(0), scores.size(1));
}

const int64_t* group_values(const std::optional<Tensor>& groups) {
  return groups ? data_of<const int64_t>(*groups) : nullptr;
}

using Outputs = std::tuple<Tensor, Tensor, Tensor, Tensor>;

template <class Element>
Outputs score_forward(const DeviceScope& scope, const Tensor& scores, const OfflineScores& offline,
                      const std::optional<Tensor>& groups, const LossParams& params) {
  using T = Compute<Element>;
  const int64_t count = scores.size(0);
  const bool each = params.reduction == Reduction::kNone;
  const Tensor loss = scope.empty(each ? std::vector{count} : std::vector<int64_t>{}, kScalarType<T>);
  const Tensor saved = scope.empty({kSavedRows, count}, kScalarType<T>);
  const Tensor text_index = scope.empty({count}, ScalarType::Long),
               image_index = scope.empty({count}, ScalarType::Long);
  const auto [memory, buffers] =
      allocate(scope, [&](Arena& arena) { return device::take_scores<Element>(arena, count, params.online); });
  const int64_t keys = device::has_packed_keys<Element>(params.online) ? count : 0;
  WorkspaceLease workspace(scope, keys, keys);
  device::ScoreAnchors<Element> anchors{data_of<const Element>(scores), count, {}, count, buffers.anchors};
  for (int which = 0; which < 4; ++which) {
    if (offline[which]) anchors.offline[which] = data_of<const Element>(*offline[which]);
  }
  const device::FinishOutputs<T> out{data_of<T>(saved),
                                     each ? data_of<T>(loss) : nullptr,
                                     each ? nullptr : data_of<T>(loss),
                                     data_of<int64_t>(text_index),
                                     data_of<int64_t>(image_index),
                                     nullptr};
  run_score_forward(loaded_scores<Element>(scores), anchors, group_values(groups), params, workspace.get(), buffers,
                    out, scope.stream);
  workspace.release_clean();
  return {loss, text_index, image_index, saved};
}

Outputs quintuplet_score_forward(Tensor scores, std::optional<Tensor> hard_text_scores,
                                 std::optional<Tensor> hard_image_scores, std::optional<Tensor> hard_pair_scores,
                                 std::optional<Tensor> partner_pair_scores, std::optional<Tensor> group_ids,
                                 Numbers numbers, Codes codes) {
  const LossParams params = loss_params(numbers, codes);
  OfflineScores offline =
      checked({hard_text_scores, hard_image_scores, hard_pair_scores, partner_pair_scores}, scores, params);
  for (std::optional<Tensor>& given : offline) {
    if (given) given = torch::stable::contiguous(*given);
  }
  const DeviceScope scope(scores);
  const std::optional<Tensor> groups = load_group_ids(group_ids, scores, scores.size(0));
  return dispatch_element(scores, [&](auto zero) {
    return score_forward<decltype(zero)>(scope, torch::stable::contiguous(scores), offline, groups, params);
  });
}

template <class Element>
Outputs find_negatives(const DeviceScope& scope, const Tensor& scores, const Tensor& positive,
                       const std::optional<Tensor>& groups, int64_t first, const LossParams& params) {
  using T = Compute<Element>;
  const int64_t rows = scores.size(0), columns = scores.size(1);
  check_vector(positive, columns, kScalarType<T>, "all_positive");
  STD_TORCH_CHECK(positive.device() == scope.device, "all_positive must be on the device of scores");
  const Tensor p = torch::stable::contiguous(positive);
  const Tensor row_keys = scope.empty({2, rows}, ScalarType::Long), row_hinges = scope.empty({2, rows}, kScalarType<T>);
  const Tensor column_keys = scope.empty({2, columns}, ScalarType::Long),
               column_hinges = scope.empty({2, columns}, kScalarType<T>);
  const bool packed = device::has_packed_keys<Element>(params.online);
  const auto [memory, buffers] = allocate(
      scope, [&](Arena& arena) { return device::take_walk<T>(arena, packed ? 0 : rows, packed ? 0 : columns); });
  WorkspaceLease workspace(scope, packed ? rows : 0, packed ? columns : 0);
  const device::NegativeRules<T> rules{rows, columns, first, group_values(groups), data_of<const T>(p)};
  run_score_negatives(loaded_scores<Element>(scores), rules, params.online, params.margin_online, workspace.get(),
                      buffers, device::StagedNegatives<T>{data_of<int64_t>(row_keys), data_of<T>(row_hinges)},
                      device::StagedNegatives<T>{data_of<int64_t>(column_keys), data_of<T>(column_hinges)},
                      scope.stream);
  workspace.release_clean();
  return {row_keys, row_hinges, column_keys, column_hinges};
}

Outputs online_negatives_of_scores(Tensor scores, Tensor all_positive, std::optional<Tensor> all_group_ids,
                                   int64_t first, Numbers numbers, Codes codes) {
  const LossParams params = loss_params(numbers, codes);
  check_score_rows(scores);
  check_first(first, scores.size(0), scores.size(1));
  const DeviceScope scope(scores);
  const std::optional<Tensor> groups = load_group_ids(all_group_ids, scores, scores.size(1));
  return dispatch_element(scores, [&](auto zero) {
    return find_negatives<decltype(zero)>(scope, torch::stable::contiguous(scores), all_positive, groups, first,
                                          params);
  });
}

using Gradients = std::tuple<Tensor, Tensor, Tensor, Tensor, Tensor>;

Gradients quintuplet_score_backward(Tensor grad_loss, Tensor scores, std::optional<Tensor> group_ids, Tensor text_index,
                                    Tensor image_index, Tensor saved, Numbers numbers, Codes codes, int64_t needs,
                                    int64_t first) {
  const LossParams options = loss_params(numbers, codes);
  check_score_rows(scores);
  const int64_t rows = scores.size(0), anchors = scores.size(1);
  check_first(first, rows, anchors);
  const DeviceScope scope(scores);
  const auto output = [&](int bit, const std::vector<int64_t>& sizes) {  // an empty one if it is not needed
    return scope.empty(is_needed(needs, bit) ? sizes : std::vector<int64_t>{0}, scores.scalar_type());
  };
  const std::array<Tensor, 5> grads{output(0, {rows, anchors}), output(1, {rows}), output(2, {rows}), output(3, {rows}),
                                    output(4, {rows})};
  const std::optional<Tensor> groups = load_group_ids(group_ids, scores, anchors);
  const Tensor values = options.online == Online::kAll ? torch::stable::contiguous(scores) : scores;
  dispatch_element(scores, [&](auto zero) {
    using Element = decltype(zero);
    const LoadedSlopes<Compute<Element>> loaded(saved, grad_loss, options.reduction, anchors, scores);
    device::ScoreBackwardParams<Element> params{};
    params.scores = options.online == Online::kAll ? data_of<const Element>(values) : nullptr;
    params.rows = rows, params.first = first;
    params.text_index = index_values(text_index, anchors, scores, "text_index");
    params.image_index = index_values(image_index, anchors, scores, "image_index");
    params.slopes = loaded.slopes;
    params.group = group_values(groups);
    params.margin = Compute<Element>(options.margin_online);
    if (is_needed(needs, 0)) params.grad = data_of<Element>(grads[0]);
    for (int which = 0; which < 4; ++which) {
      if (is_needed(needs, which + 1)) params.offline_grad[which] = data_of<Element>(grads[which + 1]);
    }
    launch_score_backward(options.online, params, scope.stream);
  });
  return {grads[0], grads[1], grads[2], grads[3], grads[4]};
}

}  // namespace
}  // namespace aoq::cuda

STABLE_TORCH_LIBRARY_IMPL(aoq, CUDA, m) {
  m.impl("quintuplet_score_forward", TORCH_BOX(&aoq::cuda::quintuplet_score_forward));
  m.impl("online_negatives_of_scores", TORCH_BOX(&aoq::cuda::online_negatives_of_scores));
  m.impl("quintuplet_score_backward", TORCH_BOX(&aoq::cuda::quintuplet_score_backward));
}
