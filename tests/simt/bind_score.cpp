// The passes of a given score matrix: their plans with every kernel in them.
#include <stdexcept>

#include "cuda/loss/forward/small_kernels.cu"
#include "cuda/loss/score/score_kernels.cu"
#include "cuda/loss/score/score_plan.h"
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

template <class Element>
Product<Element> scores_of(const Call& call) {
  const int64_t rows = call.shape("scores")[0], columns = call.shape("scores")[1];
  return given_scores(call.input<Element>("scores"), columns, rows, columns);
}

constexpr const char* kOffline[4] = {"hard_text_scores", "hard_image_scores", "hard_pair_scores",
                                     "partner_pair_scores"};

AOQ_SIMT_BINDING(score_forward) {
  with_element(call, [&](auto element) {
    using Element = decltype(element);
    using T = Compute<Element>;
    const Product<Element> scores = scores_of<Element>(call);
    const int64_t count = scores.left.count;
    const LossParams loss{call.number("margin_online"),
                          call.number("margin_offline"),
                          call.number("alpha"),
                          call.number("beta"),
                          Objective(call.integer("objective")),
                          Online(call.integer("online")),
                          Similarity::kDot,
                          Reduction(call.integer("reduction")),
                          bool(call.integer("detach_weight")),
                          bool(call.integer("clamp_weight")),
                          false};
    const bool each = loss.reduction == Reduction::kNone;
    FinishOutputs<T> out{};
    out.saved = call.output<T>("saved", {kSavedRows, count});
    (each ? out.losses : out.total) = call.output<T>("loss", {each ? count : 1});
    out.text_index = call.output<int64_t>("text_index", {count});
    out.image_index = call.output<int64_t>("image_index", {count});
    cuda::Arena measure;
    take_scores<Element>(measure, count, loss.online);
    const simt::Buffer memory(measure.bytes());
    cuda::Arena arena(memory.data.get());
    const auto buffers = take_scores<Element>(arena, count, loss.online);
    ScoreAnchors<Element> anchors{scores.left.data, count, {}, count, buffers.anchors};
    for (int which = 0; which < 4; ++which) anchors.offline[which] = call.input<Element>(kOffline[which]);
    run_score_forward(scores, anchors, call.input<int64_t>("group_ids"), loss, workspace_of(call, count, count),
                      buffers, out, call.schedule());
  });
}

template <class T>
StagedNegatives<T> staged_output(Call& call, const std::string& name, int64_t count) {
  return {call.output<int64_t>(name + "_keys", {2, count}), call.output<T>(name + "_hinges", {2, count})};
}

AOQ_SIMT_BINDING(score_negatives) {
  with_element(call, [&](auto element) {
    using Element = decltype(element);
    using T = Compute<Element>;
    const Product<Element> scores = scores_of<Element>(call);
    const int64_t rows = scores.left.count, columns = scores.right.count;
    cuda::Arena measure;
    take_walk<T>(measure, rows, columns);
    const simt::Buffer memory(measure.bytes());
    cuda::Arena arena(memory.data.get());
    const NegativeRules<T> rules{rows, columns, call.integer("first"), call.input<int64_t>("group_ids"),
                                 call.input<T>("positive")};
    run_score_negatives(scores, rules, Online(call.integer("online")), call.number("margin_online"),
                        workspace_of(call, rows, columns), take_walk<T>(arena, rows, columns),
                        staged_output<T>(call, "row", rows), staged_output<T>(call, "column", columns),
                        call.schedule());
  });
}

AOQ_SIMT_BINDING(score_backward) {
  with_element(call, [&](auto element) {
    using Element = decltype(element);
    using T = Compute<Element>;
    const int64_t rows = call.shape("scores")[0], anchors = call.shape("scores")[1], needs = call.integer("needs");
    ScoreBackwardParams<Element> p{};
    p.scores = call.input<Element>("scores");
    p.rows = rows, p.first = call.integer("first");
    p.text_index = call.input<int64_t>("text_index"), p.image_index = call.input<int64_t>("image_index");
    p.slopes = {call.input<T>("saved"), call.input<T>("grad_loss"), call.shape("grad_loss")[0] == 1 ? 0 : 1,
                T(call.number("divisor")), anchors};
    p.group = call.input<int64_t>("group_ids");
    p.margin = T(call.number("margin_online"));
    if (needs & 1) p.grad = call.output<Element>("grad_scores", {rows, anchors});
    for (int which = 0; which < 4; ++which) {
      if (needs >> (which + 1) & 1) {
        p.offline_grad[which] = call.output<Element>(std::string("grad_") + kOffline[which], {rows});
      }
    }
    launch_score_backward(Online(call.integer("online")), p, call.schedule());
  });
}

}  // namespace
}  // namespace aoq::device
