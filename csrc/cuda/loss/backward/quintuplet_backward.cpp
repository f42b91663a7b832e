// Backward pass on CUDA: check, allocate, launch; with all negatives, panels of S and torch's matrix product before.
#include <tuple>

#include "cuda/loss/backward/backward_inputs.h"
#include "cuda/loss/backward/backward_plan.h"
#include "cuda/loss/backward/matrix_product.h"

namespace aoq::cuda {
namespace {

using Gradients = std::array<Tensor, device::kGradients>;

// The operands of backward, in the order of the gradients, and the rows of every process.
struct Operands {
  std::array<std::optional<Tensor>, device::kGradients> own;
  std::optional<Tensor> all_image, all_text;
};

struct Options {
  int64_t first;
  double margin;
  Online online;
  Similarity similarity;
  int64_t needs;
  bool allow_tf32;
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
  DenseGradients(const DeviceScope& scope, const Operands& in, const Options& options,
                 const std::optional<Tensor>& groups, const device::LossSlopes<T>& slopes)
      : scope_(scope) {
    const Tensor &own_image = *in.own[0], &own_text = *in.own[1];
    const Tensor &all_image = in.all_image ? *in.all_image : own_image,
                 &all_text = in.all_text ? *in.all_text : own_text;
    const int64_t rows = own_image.size(0), width = own_image.size(1), anchors = slopes.anchors;
    if (options.needs >> device::kImageRow & 1) image = scope.empty({rows, width}, kScalarType<T>);
    if (options.needs >> device::kTextRow & 1) text = scope.empty({rows, width}, kScalarType<T>);
    if (!rows || !(image || text)) return;
    device::AllBatch<Element> batch{panel_rows<Element>(own_image, scales(own_image, options)),
                                    panel_rows<Element>(own_text, scales(own_text, options)),
                                    panel_rows<Element>(all_image, scales(all_image, options)),
                                    panel_rows<Element>(all_text, scales(all_text, options)),
                                    options.first,
                                    width,
                                    groups ? data_of<const int64_t>(*groups) : nullptr,
                                    T(options.margin),
                                    slopes};
    const int64_t elements = std::max(anchors, std::min(device::kPanelElements, rows * anchors));
    const Tensor panel = scope.empty({elements}, kScalarType<T>);
    // the rows that panels are multiplied with, in the compute type
    const Tensor image_rows = torch::stable::to(all_image, kScalarType<T>),
                 text_rows = torch::stable::to(all_text, kScalarType<T>);
    device::run_all_negatives(
        batch, data_of<T>(panel), elements, image ? data_of<T>(*image) : nullptr, text ? data_of<T>(*text) : nullptr,
        [&](const device::AllSlopesParams<Element>& params) { launch_slopes(params, options); },
        [&](const device::PanelProduct<Element>& product) {
          if (options.similarity == Similarity::kOrder) return launch_order_product(product, width, scope.stream);
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
  T* scales(const Tensor& rows, const Options& options) {
    if (options.similarity != Similarity::kCosine) return nullptr;
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

  void launch_slopes(const device::AllSlopesParams<Element>& params, const Options& options) const {
    using device::Arithmetic;
    if (options.similarity == Similarity::kOrder) {
      return device::Slopes<Arithmetic::kOrder, Element>::all(params, scope_.stream);
    }
    if constexpr (sizeof(Element) >= 4) {
      if (std::is_same_v<Element, double> || !options.allow_tf32) {
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
Gradients backward(const DeviceScope& scope, const Operands& given, const Options& options,
                   const std::optional<Tensor>& groups, const LoadedSlopes<Compute<Element>>& loaded,
                   const int64_t* text_index, const int64_t* image_index, const int64_t* choice) {
  using T = Compute<Element>;
  const auto aligned = [](const std::optional<Tensor>& rows) -> std::optional<Tensor> {
    return rows ? std::optional(aligned_rows(*rows)) : std::nullopt;
  };
  Operands in{{}, aligned(given.all_image), aligned(given.all_text)};
  for (int g = 0; g < device::kGradients; ++g) in.own[g] = aligned(given.own[g]);
  const Tensor& image = *given.own[0];
  const int64_t rows = image.size(0), width = padded_width(image);

  Gradients padded;  // an empty one for each that is not needed
  device::BackwardParams<Element> params{};
  for (int g = 0; g < device::kGradients; ++g) {
    std::vector<int64_t> sizes{0};
    if (options.needs >> g & 1) {
      sizes.assign(given.own[g]->sizes().begin(), given.own[g]->sizes().end());
      sizes.back() = width;
    }
    padded[g] = scope.empty(sizes, image.scalar_type());
    if (options.needs >> g & 1) params.grad[g] = data_of<Element>(padded[g]);
  }
  if (rows == 0 || width == 0) return padded;

  std::optional<DenseGradients<Element>> dense;
  if (options.online == Online::kAll) dense.emplace(scope, in, options, groups, loaded.slopes);
  const auto data = [](const std::optional<Tensor>& rows_of) { return rows_of ? data_of<const T>(*rows_of) : nullptr; };
  params.image = anchor_rows<Element>(in.own[device::kImageRow]);
  params.text = anchor_rows<Element>(in.own[device::kTextRow]);
  params.all_image = in.all_image ? anchor_rows<Element>(in.all_image) : params.image;
  params.all_text = in.all_text ? anchor_rows<Element>(in.all_text) : params.text;
  params.hard_image = anchor_rows<Element>(in.own[device::kHardImage]);
  params.hard_text = anchor_rows<Element>(in.own[device::kHardText]);
  params.hard_text_image = anchor_rows<Element>(in.own[device::kHardTextImage]);
  params.hard_image_text = anchor_rows<Element>(in.own[device::kHardImageText]);
  params.text_index = text_index, params.image_index = image_index, params.choice = choice;
  params.slopes = loaded.slopes;
  params.dense_image = dense ? data(dense->image) : nullptr;
  params.dense_text = dense ? data(dense->text) : nullptr;
  params.rows = rows, params.first = options.first, params.width = width;
  const auto [memory, hubs] = allocate(scope, [&](Arena& arena) { return device::take_hubs(arena, params); });
  params.hubs = hubs;
  STD_TORCH_CHECK(!hubs.pieces || cudaMemsetAsync(hubs.pieces, 0, sizeof(*hubs.pieces), scope.stream) == cudaSuccess,
                  "aoq_ext: the count of hubs cannot be cleared");
  launch_backward(options.similarity, params, processor_count(scope), scope.stream);

  for (int g = 0; g < device::kGradients; ++g) {
    if (!(options.needs >> g & 1) || width == image.size(1)) continue;
    padded[g] = torch::stable::contiguous(torch::stable::narrow(padded[g], padded[g].dim() - 1, 0, image.size(1)));
  }
  return padded;
}

std::tuple<Tensor, Tensor, Tensor, Tensor, Tensor, Tensor> quintuplet_backward(
    Tensor grad_loss, Tensor image, Tensor text, std::optional<Tensor> hard_image, std::optional<Tensor> hard_text,
    std::optional<Tensor> hard_text_image, std::optional<Tensor> hard_image_text, std::optional<Tensor> group_ids,
    Tensor text_index, Tensor image_index, Tensor choice, Tensor saved, double margin_online, int64_t objective,
    int64_t online, int64_t similarity, int64_t reduction, int64_t needs, std::optional<Tensor> all_image,
    std::optional<Tensor> all_text, int64_t first, bool allow_tf32) {
  const Objective rung = check_enum(objective, Objective::kAdaptiveQuintuplet, "objective");
  check_embeddings(image, text, hard_image, hard_text, hard_text_image, hard_image_text, rung);
  const int64_t rows = image.size(0), anchors = text_index.size(0);
  check_first(first, rows, anchors);
  check_gathered(all_image, image, anchors, "all_image");
  check_gathered(all_text, text, anchors, "all_text");
  const auto bit = [](device::Gradient gradient) { return int64_t{1} << gradient; };
  const int64_t pairs = bit(device::kImageRow) | bit(device::kTextRow),
                negatives = bit(device::kHardImage) | bit(device::kHardText),
                partners = bit(device::kHardTextImage) | bit(device::kHardImageText);
  needs &= pairs | (rung >= Objective::kOfflineTriplet ? negatives : 0) |
           (rung >= Objective::kOfflineQuintuplet ? partners : 0);
  STD_TORCH_CHECK(rows == anchors || ((all_text || !(needs & bit(device::kImageRow))) &&
                                      (all_image || !(needs & bit(device::kTextRow)))),
                  "the gradient of some rows of a batch needs all_text for image and all_image for text");
  const Options options{first,
                        margin_online,
                        check_enum(online, Online::kAll, "online"),
                        check_enum(similarity, Similarity::kOrder, "similarity"),
                        needs,
                        allow_tf32};
  if (rung < Objective::kOfflineTriplet) hard_image = hard_text = std::nullopt;
  if (rung < Objective::kOfflineQuintuplet) hard_text_image = hard_image_text = std::nullopt;
  const DeviceScope scope(image);
  const std::optional<Tensor> groups = load_group_ids(group_ids, image, anchors);
  const Gradients grads = dispatch_element(image, [&](auto zero) {
    using Element = decltype(zero);
    return backward<Element>(
        scope, {{image, text, hard_image, hard_text, hard_text_image, hard_image_text}, all_image, all_text}, options,
        groups, LoadedSlopes<Compute<Element>>(saved, grad_loss, reduction, anchors, image),
        index_values(text_index, anchors, image, "text_index"),
        index_values(image_index, anchors, image, "image_index"), index_values(choice, 2 * rows, image, "choice"));
  });
  return {grads[0], grads[1], grads[2], grads[3], grads[4], grads[5]};
}

}  // namespace
}  // namespace aoq::cuda

STABLE_TORCH_LIBRARY_IMPL(aoq, CUDA, m) { m.impl("quintuplet_backward", TORCH_BOX(&aoq::cuda::quintuplet_backward)); }
