// The tensors of the embedding form as the forward kernels read them.
#pragma once

#include "cuda/host/operator.h"
#include "cuda/loss/forward/forward_plan.h"

namespace aoq::cuda {

template <class Element>
class LoadedEmbeddings {
 public:
  device::Embeddings<Element> rows;

  // On tensors that were checked; those that the objective does not use are left out.
  LoadedEmbeddings(const Tensor& image, const Tensor& text, const std::optional<Tensor>& hard_image,
                   const std::optional<Tensor>& hard_text, const std::optional<Tensor>& hard_text_image,
                   const std::optional<Tensor>& hard_image_text, Objective objective, Similarity similarity,
                   bool allow_tf32) {
    rows.objective = objective;
    rows.similarity = similarity;
    rows.allow_tf32 = allow_tf32;
    rows.width = image.size(1) ? padded_width(image) : 0;
    rows.image = load(image);
    rows.text = load(text);
    if (rows.has_offline()) {
      rows.hard_image = load(*hard_image);
      rows.hard_text = load(*hard_text);
      rows.image_candidates = candidates(*hard_image);
      rows.text_candidates = candidates(*hard_text);
    }
    if (rows.has_pairs()) {
      rows.hard_text_image = load(*hard_text_image);
      rows.hard_image_text = load(*hard_image_text);
    }
  }

 private:
  static int64_t candidates(const Tensor& offline) { return offline.dim() == 3 ? offline.size(1) : 1; }

  device::Rows<Element> load(const Tensor& tensor) {
    const Tensor& rows = kept_.emplace_back(aligned_rows(tensor));
    return {data_of<const Element>(rows), rows.stride(rows.dim() - 2), tensor.size(0) * candidates(tensor), nullptr};
  }

  std::vector<Tensor> kept_;  // until the kernels are launched
};

}  // namespace aoq::cuda
