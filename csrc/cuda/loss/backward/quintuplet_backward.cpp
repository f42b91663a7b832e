// Backward pass on CUDA: check, allocate, launch; with all negatives, panels of S and torch's matrix product before.
#include <tuple>

#include "cuda/loss/backward/backward_inputs.h"
#include "cuda/loss/backward/backward_plan.h"
#include "cuda/loss/backward/matrix_product.h"

namespace aoq::cuda {
namespace {

using Gradients = std::array<Tensor, kGradients>;

// The operands of backward, and the rows of every process.
struct Operands {
  EmbeddingOperands own;
  std::optional<Tensor> all_image, all_text;
  int64_t first;  // the anchor of row 0
  int64_t needs;
};

template <class Element>
device::AnchorRows<Element> anchor_rows(const std::optional<Tensor>& rows) {
  if (!rows) return {nullptr, 0, 0, 1};
  const bool has_candidates = rows->dim() == 3;
  return {data_of<const Element>(*rows), rows->stride(0), has_candidates ? rows->stride(1) : 0,
          has_candidates ? rows->size(1) : 1};
}

template <class Element>
device::Operand<Element> panel_rows(const Tensor& rows, Compute<Element>* scale) {
  return {data_of<const Element>(rows), rows.stride(0), rows.size(0), scale, {}};
}

// The parts of all negatives, (R, width) in the compute type, for image and for text, each if needed.
template <class Element>
class DenseGradients {
 public:
  using T = Compute<Element>;
  std::optional<Tensor> image, text;

  // Rows are aligned already.
  DenseGradients(const DeviceScope& scope, const Operands& in, const LossParams& loss,
                 const std::optional<Tensor>& groups, const device::LossSlopes<T>& slopes)
      : scope_(scope) {
    const Tensor &own_image = *in.own[kImageRow], &own_text = *in.own[kTextRow];
    const Tensor &all_image = in.all_image ? *in.all_image : own_image,
                 &all_text = in.all_text ? *in.all_text : own_text;
    const int64_t rows = own_image.size(0), width = own_image.size(1), anchors = slopes.anchors;
    if (is_needed(in.needs, kImageRow)) image = scope.empty({rows, width}, kScalarType<T>);
    if (is_needed(in.needs, kTextRow)) text = scope.empty({rows, width}, kScalarType<T>);
    if (!rows || !(image || text)) return;
    device::AllBatch<Element> batch{panel_rows<Element>(own_image, scales(own_image, loss)),
                                    panel_rows<Element>(own_text, scales(own_text, loss)),
                                    panel_rows<Element>(all_image, scales(all_image, loss)),
                                    panel_rows<Element>(all_text, scales(all_text, loss)),
                                    in.first,
                                    width,
                                    groups ? data_of<const int64_t>(*groups) : nullptr,
                                    T(loss.margin_online),
                                    slopes};
    const int64_t elements = std::max(anchors, std::min(device::kPanelElements, rows * anchors));
    const Tensor panel = scope.empty({elements}, kScalarType<T>);
    // the rows that panels are multiplied with, in the compute type
    const Tensor image_rows = torch::stable::to(all_image, kScalarType<T>),
                 text_rows = torch::stable::to(all_text, kScalarType<T>);
    device::run_all_negatives(
        batch, data_of<T>(panel), elements, image ? data_of<T>(*image) : nullptr, text ? data_of<T>(*text) : nullptr,
        [&](const device::AllSlopesParams<Element>& params) { launch_slopes(params, loss); },
        [&](const device::PanelProduct<Element>& product) {
          if (loss.similarity == Similarity::kOrder) return launch_order_product(product, width, scope.stream);
          const int64_t targets = product.target.count;
          const Tensor slopes_of_panel =
              product.is_text ? view(panel, anchors, targets) : view(panel, targets, anchors);
          Tensor out = product.is_text ? *text : *image;
          multiply_out(torch::stable::narrow(out, 0, product.first_target, targets),
                       product.is_text ? torch::stable::transpose(slopes_of_panel, 0, 1) : slopes_of_panel,
                       product.is_text ? image_rows : text_rows);
        });
  }

 private:
  // The inverse lengths of rows, for cosine similarity.
  T* scales(const Tensor& rows, const LossParams& loss) {
    if (loss.similarity != Similarity::kCosine) return nullptr;
    for (const auto& [data, scale] : scales_) {
      if (data == rows.data_ptr() && scale.size(0) == rows.size(0)) return data_of<T>(scale);
    }
    const Tensor& scale = scales_.emplace_back(rows.data_ptr(), scope_.empty({rows.size(0)}, kScalarType<T>)).second;
    device::ScalesParams<Element> params{};
    params.part[0] = {data_of<const Element>(rows), rows.stride(0), rows.size(0), data_of<T>(scale)};
    params.parts = 1;
    params.width = rows.size(1);
    launch_scales(params, scope_.stream);
    return data_of<T>(scale);
  }

  void launch_slopes(const device::AllSlopesParams<Element>& params, const LossParams& loss) const {
    using device::Arithmetic;
    if (loss.similarity == Similarity::kOrder) {
      return device::Slopes<Arithmetic::kOrder, Element>::all(params, scope_.stream);
    }
    if constexpr (sizeof(Element) >= 4) {
      if (std::is_same_v<Element, double> || !loss.allow_tf32) {
        return device::Slopes<Arithmetic::kPlain, Element>::all(params, scope_.stream);
      }
    }
    if constexpr (!std::is_same_v<Element, double>) {
      device::Slopes<Arithmetic::kTensor, Element>::all(params, scope_.stream);
    }
  }

  // The beginning of the panel as a matrix.
  static Tensor view(Tensor panel, int64_t rows, int64_t columns) {
    return torch::stable::view(torch::stable::narrow(panel, 0, 0, rows * columns), {rows, columns});
  }

  const DeviceScope& scope_;
  std::vector<std::pair<void*, Tensor>> scales_;
};

template <class Element>
Gradients backward(const DeviceScope& scope, const Operands& given, const LossParams& loss,
                   const std::optional<Tensor>& groups, const LoadedSlopes<Compute<Element>>& loaded,
                   const int64_t* text_index, const int64_t* image_index, const int64_t* choice) {
  using T = Compute<Element>;
  const auto aligned = [](const std::optional<Tensor>& rows) -> std::optional<Tensor> {
    return rows ? std::optional(aligned_rows(*rows)) : std::nullopt;
  };
  Operands in{{}, aligned(given.all_image), aligned(given.all_text), given.first, given.needs};
  for (int g = 0; g < kGradients; ++g) in.own[g] = aligned(given.own[g]);
  const Tensor& image = *given.own[kImageRow];
  const int64_t rows = image.size(0), width = padded_width(image);

  Gradients padded;  // an empty one for each that is not needed
  device::BackwardParams<Element> params{};
  for (int g = 0; g < kGradients; ++g) {
    std::vector<int64_t> sizes{0};
    if (is_needed(given.needs, g)) {
      sizes.assign(given.own[g]->sizes().begin(), given.own[g]->sizes().end());
      sizes.back() = width;
    }
    padded[g] = scope.empty(sizes, image.scalar_type());
    if (is_needed(given.needs, g)) params.grad[g] = data_of<Element>(padded[g]);
  }
  if (rows == 0 || width == 0) return padded;

  std::optional<DenseGradients<Element>> dense;
  if (loss.online == Online::kAll) dense.emplace(scope, in, loss, groups, loaded.slopes);
  const auto data = [](const std::optional<Tensor>& rows_of) { return rows_of ? data_of<const T>(*rows_of) : nullptr; };
  params.image = anchor_rows<Element>(in.own[kImageRow]);
  params.text = anchor_rows<Element>(in.own[kTextRow]);
  params.all_image = in.all_image ? anchor_rows<Element>(in.all_image) : params.image;
  params.all_text = in.all_text ? anchor_rows<Element>(in.all_text) : params.text;
  params.hard_image = anchor_rows<Element>(in.own[kHardImage]);
  params.hard_text = anchor_rows<Element>(in.own[kHardText]);
  params.hard_text_image = anchor_rows<Element>(in.own[kHardTextImage]);
  params.hard_image_text = anchor_rows<Element>(in.own[kHardImageText]);
  params.text_index = text_index, params.image_index = image_index, params.choice = choice;
  params.slopes = loaded.slopes;
  params.dense_image = dense ? data(dense->image) : nullptr;
  params.dense_text = dense ? data(dense->text) : nullptr;
  params.rows = rows, params.first = given.first, params.width = width;
  const auto [memory, hubs] = allocate(scope, [&](Arena& arena) { return device::take_hubs(arena, params); });
  params.hubs = hubs;
  STD_TORCH_CHECK(!hubs.pieces || cudaMemsetAsync(hubs.pieces, 0, sizeof(*hubs.pieces), scope.stream) == cudaSuccess,
                  "aoq_ext: the count of hubs cannot be cleared");
  launch_backward(loss.similarity, params, processor_count(scope), scope.stream);

  for (int g = 0; g < kGradients; ++g) {
    if (!is_needed(given.needs, g) || width == image.size(1)) continue;
    padded[g] = torch::stable::contiguous(torch::stable::narrow(padded[g], padded[g].dim() - 1, 0, image.size(1)));
  }
  return padded;
}

std::tuple<Tensor, Tensor, Tensor, Tensor, Tensor, Tensor> quintuplet_backward(
    Tensor grad_loss, Tensor image, Tensor text, std::optional<Tensor> hard_image, std::optional<Tensor> hard_text,
    std::optional<Tensor> hard_text_image, std::optional<Tensor> hard_image_text, std::optional<Tensor> group_ids,
    Tensor text_index, Tensor image_index, Tensor choice, Tensor saved, Numbers numbers, Codes codes, int64_t needs,
    std::optional<Tensor> all_image, std::optional<Tensor> all_text, int64_t first) {
  const LossParams loss = loss_params(numbers, codes);
  const EmbeddingOperands own =
      checked({image, text, hard_image, hard_text, hard_text_image, hard_image_text}, loss.objective);
  const int64_t rows = image.size(0), anchors = text_index.size(0);
  needs = checked_needs(needs, own, all_image, all_text, first, anchors);
  const DeviceScope scope(image);
  const std::optional<Tensor> groups = load_group_ids(group_ids, image, anchors);
  const Gradients grads = dispatch_element(image, [&](auto zero) {
    using Element = decltype(zero);
    return backward<Element>(scope, {own, all_image, all_text, first, needs}, loss, groups,
                             LoadedSlopes<Compute<Element>>(saved, grad_loss, loss.reduction, anchors, image),
                             index_values(text_index, anchors, image, "text_index"),
                             index_values(image_index, anchors, image, "image_index"),
                             index_values(choice, 2 * rows, image, "choice"));
  });
  return {grads[0], grads[1], grads[2], grads[3], grads[4], grads[5]};
}

}  // namespace
}  // namespace aoq::cuda

STABLE_TORCH_LIBRARY_IMPL(aoq, CUDA, m) { m.impl("quintuplet_backward", TORCH_BOX(&aoq::cuda::quintuplet_backward)); }
