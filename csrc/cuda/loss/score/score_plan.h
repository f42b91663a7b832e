// Which kernels the passes of a given score matrix launch, and the memory they share. Free of torch.
#pragma once

#include "cuda/loss/forward/forward_plan.h"
#include "cuda/loss/score/score_params.h"

namespace aoq::device {

template <class T>
struct ScoreBuffers {
  T* anchors;  // (5, count)
  WalkBuffers<T> walk;
  double* partial;  // of FinishParams
};

template <class Element>
ScoreBuffers<Compute<Element>> take_scores(cuda::Arena& arena, int64_t count, Online online) {
  using T = Compute<Element>;
  const int64_t walked = has_packed_keys<Element>(online) ? 0 : count;
  T* const anchors = arena.take<T>(5 * count);
  const WalkBuffers<T> walk = take_walk<T>(arena, walked, walked);
  return {anchors, walk, arena.take<double>(tiles_along(count, kFinishAnchors) + 1)};
}

// The online negatives of both directions of S into buffers.rows and buffers.columns.
template <class Element, class T = Compute<Element>>
void walk_scores(const Product<Element>& scores, const NegativeRules<T>& rules, Online online, double margin,
                 const WalkBuffers<T>& buffers, cuda::Stream stream) {
  const int64_t row_chunks = walk_chunks(rules.rows, rules.columns);
  const int64_t column_chunks = walk_chunks(rules.columns, rules.rows);
  launch_score_walk(WalkParams<Element>{scores, rules, online, T(margin), row_chunks, column_chunks, buffers.row_chunks,
                                        buffers.column_chunks},
                    stream);
  launch_fold(FoldParams<T>{{{rules.rows, row_chunks, buffers.row_chunks, buffers.rows},
                             {rules.columns, column_chunks, buffers.column_chunks, buffers.columns}}},
              stream);
}

// The whole forward pass of a square S; `anchors` says where p, a, b, c and d are.
template <class Element, class T = Compute<Element>>
void run_score_forward(const Product<Element>& scores, const ScoreAnchors<Element>& anchors, const int64_t* group,
                       const LossParams& loss, const Workspace& workspace, const ScoreBuffers<T>& buffers,
                       const FinishOutputs<T>& out, cuda::Stream stream) {
  const int64_t count = anchors.count;
  const bool packed = has_packed_keys<Element>(loss.online), compares = loss.online != Online::kHardest;
  if (compares || !packed) launch_score_anchors(anchors, stream);
  const NegativeRules<T> rules{count, count, 0, group, compares ? anchors.scores : nullptr};
  const auto finish = [&](const auto& text, const auto& image) {
    return FinishParams<std::decay_t<decltype(text)>>{count,           anchors.scores,  loss, text, image, out,
                                                      buffers.partial, workspace.ticket};
  };
  if constexpr (!std::is_same_v<Element, double>) {
    if (packed) {
      const auto to_finish = finish(PackedNegatives{workspace.row_key}, PackedNegatives{workspace.column_key});
      const bool finishes = count > 0 && hardest_may_finish(count, count);
      launch_score_hardest(
          ScoreHardestParams<Element>{scores, rules, workspace.row_key, workspace.column_key,
                                      compares ? ScoreAnchors<Element>{} : anchors, finishes, to_finish},
          stream);
      if (!finishes) launch_finish(to_finish, stream);
      return;
    }
  }
  walk_scores(scores, rules, loss.online, loss.margin_online, buffers.walk, stream);
  launch_finish(finish(buffers.walk.rows, buffers.walk.columns), stream);
}

// The online negatives of R images among C texts, and of these texts among these images.
template <class Element, class T = Compute<Element>>
void run_score_negatives(const Product<Element>& scores, NegativeRules<T> rules, Online online, double margin,
                         const Workspace& workspace, const WalkBuffers<T>& buffers, const StagedNegatives<T>& rows,
                         const StagedNegatives<T>& columns, cuda::Stream stream) {
  const auto unpack = [&](const auto& by_row, const auto& by_column) {
    using Negatives = std::decay_t<decltype(by_row)>;
    launch_unpack(UnpackParams<Negatives>{{{rules.rows, by_row, rows, nullptr, nullptr},
                                           {rules.columns, by_column, columns, nullptr, nullptr}}},
                  stream);
  };
  if (online == Online::kHardest) rules.positive = nullptr;
  if constexpr (!std::is_same_v<Element, double>) {
    if (has_packed_keys<Element>(online)) {
      ScoreHardestParams<Element> params{};
      params.all = scores, params.rules = rules;
      params.row_key = workspace.row_key, params.column_key = workspace.column_key;
      launch_score_hardest(params, stream);
      return unpack(PackedNegatives{workspace.row_key}, PackedNegatives{workspace.column_key});
    }
  }
  walk_scores(scores, rules, online, margin, buffers, stream);
  unpack(buffers.rows, buffers.columns);
}

}  // namespace aoq::device
