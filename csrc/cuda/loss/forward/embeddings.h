// The tensors of the embedding form as the forward kernels read them.
#pragma once

#include "cuda/host/operator.h"
#include "cuda/loss/forward/forward_plan.h"
#include "loss_checks.h"

namespace aoq::cuda {

template <class Element>
class LoadedEmbeddings {
 public:
  device::Embeddings<Element> rows;

  LoadedEmbeddings(const EmbeddingOperands& given, const LossParams& params) {
    const Tensor& image = *given[kImageRow];
    rows.objective = params.objective;
    rows.similarity = params.similarity;
    rows.allow_tf32 = params.allow_tf32;
    rows.width = image.size(1) ? padded_width(image) : 0;
    rows.image = load(image);
    rows.text = load(*given[kTextRow]);
    if (rows.has_offline()) {
      rows.hard_image = load(*given[kHardImage]);
      rows.hard_text = load(*given[kHardText]);
      rows.image_candidates = candidates(*given[kHardImage]);
      rows.text_candidates = candidates(*given[kHardText]);
    }
    if (rows.has_pairs()) {
      rows.hard_text_image = load(*given[kHardTextImage]);
      rows.hard_image_text = load(*given[kHardImageText]);
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
