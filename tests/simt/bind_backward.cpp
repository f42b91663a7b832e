// The backward kernels.
#include "cuda/loss/backward/all_negatives.cu"
#include "cuda/loss/backward/backward_plan.h"
#include "cuda/loss/backward/sparse.cuh"
#include "simt/binding.h"

namespace aoq::device {
namespace {

using simt::Call;

constexpr const char* kGradNames[kGradients] = {
    "grad_image", "grad_text", "grad_hard_image", "grad_hard_text", "grad_hard_text_image", "grad_hard_image_text"};

template <class Element>
AnchorRows<Element> operand(const Call& call, const std::string& name) {
  if (!call.has(name)) return {nullptr, 0, 0, 1};
  const auto& shape = call.shape(name);  // (rows, D) or (rows, K, D)
  const int64_t width = shape.back(), candidates = shape.size() == 3 ? shape[1] : 1;
  return {call.input<Element>(name), candidates * width, width, candidates};
}

template <class T>
LossSlopes<T> slopes_of(const Call& call) {
  return {call.input<T>("saved"), call.input<T>("grad_loss"), call.shape("grad_loss")[0] == 1 ? 0 : 1,
          T(call.number("divisor")), call.shape("saved")[1]};
}

template <class Element, Similarity kSimilarity>
void backward(Call& call) {
  using T = Compute<Element>;
  const auto find = [&](const char* name) { return operand<Element>(call, name); };
  BackwardParams<Element> p{};
  p.image = find("image"), p.text = find("text");
  p.all_image = find("all_image"), p.all_text = find("all_text");
  p.hard_image = find("hard_image"), p.hard_text = find("hard_text");
  p.hard_text_image = find("hard_text_image"), p.hard_image_text = find("hard_image_text");
  p.text_index = call.input<int64_t>("text_index"), p.image_index = call.input<int64_t>("image_index");
  p.choice = call.input<int64_t>("choice");
  p.slopes = slopes_of<T>(call);
  p.dense_image = call.input<T>("dense_image"), p.dense_text = call.input<T>("dense_text");
  p.rows = call.shape("image")[0], p.width = call.shape("image")[1];
  p.first = call.integer("first");
  p.rows_per_block = call.integer("rows_per_block");
  const AnchorRows<Element>* like[kGradients] = {&p.image,           &p.text,           &p.hard_image, &p.hard_text,
                                                 &p.hard_text_image, &p.hard_image_text};
  for (int grad = 0; grad < kGradients; ++grad) {
    if (!(call.integer("needs") >> grad & 1)) continue;
    std::vector<int64_t> shape{p.rows, p.width};
    if (like[grad]->candidates > 1) shape.insert(shape.begin() + 1, like[grad]->candidates);
    p.grad[grad] = call.output<Element>(kGradNames[grad], shape);
  }
  cuda::Arena measure;
  take_hubs(measure, p);
  std::vector<unsigned char> memory(measure.bytes(), 0xff);
  cuda::Arena arena(memory.data());
  p.hubs = take_hubs(arena, p);
  p.hubs.blocks = call.integer("hub_blocks");
  if (p.hubs.pieces) *p.hubs.pieces = 0;
  run_backward<Element, kSimilarity>(p, call.schedule());
  *call.output<int64_t>("hub_pieces", {}) = p.hubs.pieces ? *p.hubs.pieces : 0;
}

template <class Element>
void of_similarity(Call& call) {
  switch (static_cast<Similarity>(call.integer("similarity"))) {
    case Similarity::kDot: return backward<Element, Similarity::kDot>(call);
    case Similarity::kCosine: return backward<Element, Similarity::kCosine>(call);
    case Similarity::kOrder: return backward<Element, Similarity::kOrder>(call);
  }
}

// The whole of Online::kAll but the matrix products, which torch computes on a GPU: here plain loops.
template <class Element>
void multiply_panel(const PanelProduct<Element>& product, int64_t width) {
  using T = Compute<Element>;
  const auto& [is_text, first, target, source, panel, out] = product;
  for (int64_t t = 0; t < target.count; ++t) {
    for (int64_t d = 0; d < width; ++d) {
      T sum = 0;
      for (int64_t s = 0; s < source.count; ++s) {
        const T slope = is_text ? panel[s * target.count + t] : panel[t * source.count + s];
        sum += slope * widen(source.data[s * source.stride + d]);
      }
      out[t * width + d] = sum;
    }
  }
}

template <class Element, Arithmetic kArithmetic>
void all_negatives(Call& call) {
  using T = Compute<Element>;
  const bool is_cosine = Similarity(call.integer("similarity")) == Similarity::kCosine;
  const auto rows = [&](const char* name, const char* scale) {
    return Operand<Element>{call.input<Element>(name),
                            call.shape(name)[1],
                            call.shape(name)[0],
                            is_cosine ? call.input<T>(scale) : nullptr,
                            {}};
  };
  AllBatch<Element> batch{
      rows("image", "image_scale"),       rows("text", "text_scale"),      rows("all_image", "all_image_scale"),
      rows("all_text", "all_text_scale"), call.integer("first"),           call.shape("image")[1],
      call.input<int64_t>("group_ids"),   T(call.number("margin_online")), slopes_of<T>(call)};
  const auto output = [&](int bit, const char* name) {
    return call.integer("needs") >> bit & 1 ? call.output<T>(name, {batch.image.count, batch.width}) : nullptr;
  };
  const int64_t elements = call.integer("panel_elements");
  run_all_negatives(
      batch, call.output<T>("panel", {elements}), elements, output(0, "dense_image"), output(1, "dense_text"),
      [&](const AllSlopesParams<Element>& params) { Slopes<kArithmetic, Element>::all(params, call.schedule()); },
      [&](const PanelProduct<Element>& product) {
        if (kArithmetic == Arithmetic::kOrder) return launch_order_product(product, batch.width, call.schedule());
        multiply_panel(product, batch.width);
      });
}

template <class Element>
void all_of_similarity(Call& call) {
  constexpr bool kIsHalf = sizeof(Element) == 2;
  if (Similarity(call.integer("similarity")) == Similarity::kOrder) {
    return all_negatives<Element, Arithmetic::kOrder>(call);
  }
  all_negatives<Element, kIsHalf ? Arithmetic::kTensor : Arithmetic::kPlain>(call);
}

}  // namespace

AOQ_SIMT_BINDING(backward_float) { of_similarity<float>(call); }
AOQ_SIMT_BINDING(backward_double) { of_similarity<double>(call); }
AOQ_SIMT_BINDING(backward_half) { of_similarity<Half>(call); }
AOQ_SIMT_BINDING(backward_bfloat16) { of_similarity<BFloat16>(call); }
AOQ_SIMT_BINDING(all_negatives_float) { all_of_similarity<float>(call); }
AOQ_SIMT_BINDING(all_negatives_double) { all_of_similarity<double>(call); }
AOQ_SIMT_BINDING(all_negatives_half) { all_of_similarity<Half>(call); }
AOQ_SIMT_BINDING(all_negatives_bfloat16) { all_of_similarity<BFloat16>(call); }

}  // namespace aoq::device
