// Forward in stages on CUDA, for a batch that is spread over processes; see csrc/cpu/loss/staged_forward.cpp.
#include <tuple>

#include "cuda/loss/forward/embeddings.h"
#include "cuda/loss/workspace.h"

namespace aoq::cuda {
namespace {

constexpr int64_t kAnchorScores = 5;  // p, a, b, c, d

template <class Element>
std::tuple<Tensor, Tensor> score_anchors(const DeviceScope& scope, LoadedEmbeddings<Element> loaded) {
  using T = Compute<Element>;
  auto& rows = loaded.rows;
  const int64_t count = rows.image.count;
  const Tensor scores = scope.empty({kAnchorScores, count}, kScalarType<T>);
  const Tensor choice = scope.empty({2, count}, ScalarType::Long);
  auto [memory, buffers] = allocate(scope, [&](Arena& arena) {
    take_scales(arena, rows);
    return take_anchors(arena, rows, data_of<int64_t>(choice));
  });
  buffers.scores = data_of<T>(scores);
  const auto clear = [&](const Tensor& tensor) {
    STD_TORCH_CHECK(cudaMemsetAsync(tensor.data_ptr(), 0, size_t(tensor.numel()) * tensor.element_size(),
                                    scope.stream) == cudaSuccess,
                    "aoq_ext: an output cannot be cleared");
  };
  if (!rows.has_pairs()) clear(scores);  // what the objective has no use for is 0
  if (!rows.has_choice()) clear(choice);
  run_anchor_scores(rows, buffers, scope.stream);
  return {scores, choice};
}

std::tuple<Tensor, Tensor> anchor_scores(Tensor image, Tensor text, std::optional<Tensor> hard_image,
                                         std::optional<Tensor> hard_text, std::optional<Tensor> hard_text_image,
                                         std::optional<Tensor> hard_image_text, Numbers numbers, Codes codes) {
  const LossParams params = loss_params(numbers, codes);
  const EmbeddingOperands given =
      checked({image, text, hard_image, hard_text, hard_text_image, hard_image_text}, params.objective);
  const DeviceScope scope(image);
  return dispatch_element(
      image, [&](auto zero) { return score_anchors(scope, LoadedEmbeddings<decltype(zero)>(given, params)); });
}

// One direction's (keys, hinges), (2, count) each.
template <class T>
struct Negatives {
  Tensor keys, hinges;

  Negatives(const DeviceScope& scope, int64_t count)
      : keys(scope.empty({2, count}, ScalarType::Long)), hinges(scope.empty({2, count}, kScalarType<T>)) {}
  device::StagedNegatives<T> staged() const { return {data_of<int64_t>(keys), data_of<T>(hinges)}; }
};

using Directions = std::tuple<Tensor, Tensor, Tensor, Tensor>;

template <class Element>
Directions find_negatives(const DeviceScope& scope, LoadedEmbeddings<Element> loaded, const Tensor& positive,
                          const std::optional<Tensor>& groups, int64_t first, const LossParams& params) {
  using T = Compute<Element>;
  auto& embeddings = loaded.rows;
  const int64_t rows = embeddings.image.count, columns = embeddings.text.count;
  check_first(first, rows, columns);
  check_vector(positive, columns, kScalarType<T>, "all_positive");
  STD_TORCH_CHECK(positive.device() == scope.device, "all_positive must be on the device of image");
  const Tensor p = torch::stable::contiguous(positive);
  const Negatives<T> by_row(scope, rows), by_column(scope, columns);
  const bool packed = device::has_packed_keys<Element>(params.online);
  const auto [memory, buffers] = allocate(scope, [&](Arena& arena) {
    take_scales(arena, embeddings);
    return device::take_walk<T>(arena, packed ? 0 : rows, packed ? 0 : columns);
  });
  WorkspaceLease workspace(scope, packed ? rows : 0, packed ? columns : 0);
  const device::NegativeRules<T> rules{rows, columns, first, groups ? data_of<const int64_t>(*groups) : nullptr,
                                       data_of<const T>(p)};
  run_online_negatives(embeddings, rules, params.online, params.margin_online, workspace.get(), buffers,
                       device::NegativeOutputs<T>{by_row.staged(), nullptr, nullptr},
                       device::NegativeOutputs<T>{by_column.staged(), nullptr, nullptr}, scope.stream);
  workspace.release_clean();
  return {by_row.keys, by_row.hinges, by_column.keys, by_column.hinges};
}

Directions online_negatives(Tensor image, Tensor all_text, Tensor all_positive, std::optional<Tensor> all_group_ids,
                            int64_t first, Numbers numbers, Codes codes) {
  LossParams params = loss_params(numbers, codes);
  params.objective = Objective::kOnlineTriplet;  // no offline negatives here
  check_floating(image, "image");
  STD_TORCH_CHECK(image.dim() == 2 && all_text.dim() == 2, "image and all_text must have shape (rows, D)");
  check_gathered(all_text, image, all_text.size(0), "all_text");
  const DeviceScope scope(image);
  const std::optional<Tensor> groups = load_group_ids(all_group_ids, image, all_text.size(0));
  return dispatch_element(image, [&](auto zero) {
    return find_negatives(scope, LoadedEmbeddings<decltype(zero)>({image, all_text}, params), all_positive, groups,
                          first, params);
  });
}

template <class T>
device::StagedNegatives<T> staged_input(const Tensor& keys, const Tensor& hinges, const Tensor& scores,
                                        const char* name) {
  const int64_t count = scores.size(1);
  STD_TORCH_CHECK(keys.numel() == 2 * count && keys.scalar_type() == ScalarType::Long && keys.is_contiguous() &&
                      hinges.numel() == 2 * count && hinges.scalar_type() == kScalarType<T> && hinges.is_contiguous() &&
                      keys.device() == scores.device() && hinges.device() == scores.device(),
                  name, " must be (2, B), contiguous, on the device of scores");
  return {data_of<int64_t>(keys), data_of<T>(hinges)};
}

Directions anchor_losses(Tensor scores, Tensor text_keys, Tensor text_hinges, Tensor image_keys, Tensor image_hinges,
                         Numbers numbers, Codes codes) {
  const LossParams params = loss_params(numbers, codes);
  STD_TORCH_CHECK(scores.dim() == 2 && scores.size(0) == kAnchorScores && scores.is_contiguous(),
                  "scores must have shape (5, B), contiguous");
  const DeviceScope scope(scores);
  return dispatch_compute_type(scores, [&](auto zero) {
    using T = decltype(zero);
    STD_TORCH_CHECK(scores.scalar_type() == kScalarType<T>, "scores must be float32 or float64");
    const int64_t count = scores.size(1);
    const auto text = staged_input<T>(text_keys, text_hinges, scores, "text_keys and text_hinges");
    const auto image = staged_input<T>(image_keys, image_hinges, scores, "image_keys and image_hinges");
    const Tensor losses = scope.empty({count}, kScalarType<T>),
                 saved = scope.empty({kSavedRows, count}, kScalarType<T>);
    const Tensor text_index = scope.empty({count}, ScalarType::Long),
                 image_index = scope.empty({count}, ScalarType::Long);
    const device::FinishOutputs<T> out{data_of<T>(saved),
                                       data_of<T>(losses),
                                       nullptr,
                                       data_of<int64_t>(text_index),
                                       data_of<int64_t>(image_index),
                                       nullptr};
    launch_finish(device::FinishParams<device::StagedNegatives<T>>{count, data_of<const T>(scores), params, text, image,
                                                                   out, nullptr, nullptr},
                  scope.stream);
    return Directions{losses, text_index, image_index, saved};
  });
}

}  // namespace
}  // namespace aoq::cuda

STABLE_TORCH_LIBRARY_IMPL(aoq, CUDA, m) {
  m.impl("anchor_scores", TORCH_BOX(&aoq::cuda::anchor_scores));
  m.impl("online_negatives", TORCH_BOX(&aoq::cuda::online_negatives));
  m.impl("anchor_losses", TORCH_BOX(&aoq::cuda::anchor_losses));
}
