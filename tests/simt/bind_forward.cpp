// The forward pass: its plan with every kernel in it, and the walk over S by tiles of a given size.
#include <stdexcept>
#include <vector>

#include "cuda/loss/forward/forward_plan.h"
#include "cuda/loss/forward/scoring.cuh"
#include "cuda/loss/forward/small_kernels.cu"
#include "simt/binding.h"

namespace aoq::device {
namespace {

using simt::Call;

// Calls f with a value of the type that `element` names.
template <class F>
void with_element(const Call& call, F f) {
  switch (call.integer("element")) {
    case 0: return f(float{});
    case 1: return f(double{});
    case 2: return f(BFloat16{});
    case 3: return f(Half{});
  }
  throw std::invalid_argument("element");
}

// (…, D) rows; the last dimension is padded to whole pieces already.
template <class Element>
Rows<Element> rows_of(const Call& call, const char* name) {
  if (!call.has(name)) return {};
  const auto& shape = call.shape(name);
  int64_t count = 1;
  for (size_t d = 0; d + 1 < shape.size(); ++d) count *= shape[d];
  return {call.input<Element>(name), shape.back(), count, nullptr};
}

int64_t candidates_of(const Call& call, const char* name) {
  return call.has(name) && call.shape(name).size() == 3 ? call.shape(name)[1] : 1;
}

template <class Element>
Embeddings<Element> embeddings_of(const Call& call) {
  Embeddings<Element> e{rows_of<Element>(call, "image"),
                        rows_of<Element>(call, "text"),
                        rows_of<Element>(call, "hard_image"),
                        rows_of<Element>(call, "hard_text"),
                        rows_of<Element>(call, "hard_text_image"),
                        rows_of<Element>(call, "hard_image_text"),
                        call.shape("image").back()};
  e.text_candidates = candidates_of(call, "hard_text");
  e.image_candidates = candidates_of(call, "hard_image");
  e.objective = Objective(call.integer("objective"));
  e.similarity = Similarity(call.integer("similarity"));
  e.allow_tf32 = call.integer("allow_tf32");
  return e;
}

LossParams loss_of(const Call& call) {
  return {call.number("margin_online"),
          call.number("margin_offline"),
          call.number("alpha"),
          call.number("beta"),
          Objective(call.integer("objective")),
          Online(call.integer("online")),
          Similarity(call.integer("similarity")),
          Reduction(call.integer("reduction")),
          bool(call.integer("detach_weight")),
          bool(call.integer("clamp_weight")),
          bool(call.integer("allow_tf32"))};
}

template <class T>
T* zeros(Call& call, const char* name, int64_t count) {
  T* const out = call.output<T>(name, {count});
  std::fill(out, out + count, T(0));
  return out;
}

Workspace workspace_of(Call& call, int64_t rows, int64_t columns) {
  return {zeros<uint64_t>(call, "row_key", rows), zeros<uint64_t>(call, "column_key", columns),
          zeros<uint32_t>(call, "ticket", 1)};
}

// Memory of the kernels, of exactly the size that they ask for; poisoned.
struct Scratch {
  explicit Scratch(size_t bytes) : buffer(bytes) {}
  simt::Buffer buffer;
  cuda::Arena arena() { return cuda::Arena(buffer.data.get()); }
};

template <class T>
FinishOutputs<T> finish_outputs(Call& call, int64_t count, Reduction reduction) {
  FinishOutputs<T> out{};
  out.saved = call.output<T>("saved", {kSavedRows, count});
  out.losses = reduction == Reduction::kNone ? call.output<T>("loss", {count}) : nullptr;
  out.total = reduction == Reduction::kNone ? nullptr : call.output<T>("loss", {1});
  out.text_index = call.output<int64_t>("text_index", {count});
  out.image_index = call.output<int64_t>("image_index", {count});
  out.choice = call.output<int64_t>("choice", {2, count});
  return out;
}

template <class T>
StagedNegatives<T> staged_output(Call& call, const std::string& name, int64_t count) {
  return {call.output<int64_t>(name + "_keys", {2, count}), call.output<T>(name + "_hinges", {2, count})};
}

AOQ_SIMT_BINDING(forward) {
  with_element(call, [&](auto element) {
    using Element = decltype(element);
    using T = Compute<Element>;
    Embeddings<Element> e = embeddings_of<Element>(call);
    const LossParams loss = loss_of(call);
    const int64_t count = e.image.count;
    const FinishOutputs<T> out = finish_outputs<T>(call, count, loss.reduction);
    cuda::Arena measure;
    take_forward(measure, e, loss.online, nullptr);
    Scratch scratch(measure.bytes());
    cuda::Arena arena = scratch.arena();
    const auto buffers = take_forward(arena, e, loss.online, out.choice);
    run_forward(e, call.input<int64_t>("group_ids"), loss, workspace_of(call, count, count), buffers, out,
                call.schedule());
  });
}

AOQ_SIMT_BINDING(anchor_scores) {
  with_element(call, [&](auto element) {
    using Element = decltype(element);
    Embeddings<Element> e = embeddings_of<Element>(call);
    cuda::Arena measure;
    take_scales(measure, e);
    take_anchors(measure, e, nullptr);
    Scratch scratch(measure.bytes());
    cuda::Arena arena = scratch.arena();
    take_scales(arena, e);
    auto buffers = take_anchors(arena, e, call.output<int64_t>("choice", {2, e.image.count}));
    buffers.scores = call.output<Compute<Element>>("scores", {5, e.image.count});
    run_anchor_scores(e, buffers, call.schedule());
  });
}

AOQ_SIMT_BINDING(online_negatives) {
  with_element(call, [&](auto element) {
    using Element = decltype(element);
    using T = Compute<Element>;
    Embeddings<Element> e = embeddings_of<Element>(call);
    const int64_t rows = e.image.count, columns = e.text.count;
    cuda::Arena measure;
    take_scales(measure, e);
    take_walk<T>(measure, rows, columns);
    Scratch scratch(measure.bytes());
    cuda::Arena arena = scratch.arena();
    take_scales(arena, e);
    const WalkBuffers<T> buffers = take_walk<T>(arena, rows, columns);
    const NegativeRules<T> rules{rows, columns, call.integer("first"), call.input<int64_t>("group_ids"),
                                 call.input<T>("positive")};
    const NegativeOutputs<T> by_row{staged_output<T>(call, "row", rows), call.output<int64_t>("text_index", {rows}),
                                    call.output<T>("text_score", {rows})};
    const NegativeOutputs<T> by_column{staged_output<T>(call, "column", columns),
                                       call.output<int64_t>("image_index", {columns}),
                                       call.output<T>("image_score", {columns})};
    run_online_negatives(e, rules, Online(call.integer("online")), call.number("margin_online"),
                         workspace_of(call, rows, columns), buffers, by_row, by_column, call.schedule());
  });
}

AOQ_SIMT_BINDING(anchor_losses) {
  const int64_t count = call.shape("scores")[1];
  const LossParams loss = loss_of(call);
  const StagedNegatives<float> text{call.in_out<int64_t>("text_keys"), call.in_out<float>("text_hinges")};
  const StagedNegatives<float> image{call.in_out<int64_t>("image_keys"), call.in_out<float>("image_hinges")};
  launch_finish(FinishParams<StagedNegatives<float>>{count, call.input<float>("scores"), loss, text, image,
                                                     finish_outputs<float>(call, count, loss.reduction), nullptr,
                                                     zeros<uint32_t>(call, "ticket", 1)},
                call.schedule());
}

// A walk in given numbers of chunks, where the size of S would choose others.
AOQ_SIMT_BINDING(walk) {
  using Ways = Way<Arithmetic::kPlain, double>;
  const Embeddings<double> e = embeddings_of<double>(call);
  const int64_t rows = e.image.count, columns = e.text.count, chunks = call.integer("chunks");
  const auto staged = [&](const std::string& name, int64_t count) {
    return StagedNegatives<double>{call.output<int64_t>(name + "_chunk_keys", {chunks, 2, count}),
                                   call.output<double>(name + "_chunk_hinges", {chunks, 2, count})};
  };
  const WalkParams<double> params{all_pairs(e),
                                  {rows, columns, 0, nullptr, call.input<double>("positive")},
                                  Online(call.integer("online")),
                                  call.number("margin_online"),
                                  chunks,
                                  chunks,
                                  staged("row", rows),
                                  staged("column", columns)};
  launch_all<WalkKernel<Ways::Middle>>(params, call.schedule());
  launch_fold(FoldParams<double>{{{rows, chunks, params.rows, staged_output<double>(call, "row", rows)},
                                  {columns, chunks, params.columns, staged_output<double>(call, "column", columns)}}},
              call.schedule());
}

// The walk over S by tiles of 32, 64 or 128, whatever the size of S.
template <Arithmetic kArithmetic, class Element>
void run_tiles(Call& call) {
  using Ways = Way<kArithmetic, Element>;
  const Embeddings<Element> e = embeddings_of<Element>(call);
  HardestParams<Element> params{};
  params.all = all_pairs(e);
  params.rules = {e.image.count, e.text.count, call.integer("first"), call.input<int64_t>("group_ids"),
                  call.input<float>("positive")};
  const Workspace workspace = workspace_of(call, e.image.count, e.text.count);
  params.row_key = workspace.row_key, params.column_key = workspace.column_key;
  switch (TileSize(call.integer("tile"))) {
    case TileSize::kSmall: return launch_hardest<Ways, typename Ways::Small>(params, call.schedule());
    case TileSize::kMiddle: return launch_hardest<Ways, typename Ways::Middle>(params, call.schedule());
    case TileSize::kLarge: return launch_hardest<Ways, typename Ways::Large>(params, call.schedule());
  }
}

AOQ_SIMT_BINDING(tiles) {
  const bool order = Similarity(call.integer("similarity")) == Similarity::kOrder;
  with_element(call, [&](auto element) {
    using Element = decltype(element);
    if constexpr (std::is_same_v<Element, double>) {
      throw std::invalid_argument("packed keys hold no float64");
    } else if (order) {
      run_tiles<Arithmetic::kOrder, Element>(call);
    } else if (std::is_same_v<Element, float> && !call.integer("allow_tf32")) {
      if constexpr (std::is_same_v<Element, float>) run_tiles<Arithmetic::kPlain, Element>(call);
    } else {
      run_tiles<Arithmetic::kTensor, Element>(call);
    }
  });
}

}  // namespace
}  // namespace aoq::device
