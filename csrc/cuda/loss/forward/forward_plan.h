// Which kernels a forward pass launches, in which order, and the memory they share. Free of torch.
#pragma once

#include "cuda/host/arena.h"
#include "cuda/loss/forward/forward_params.h"

namespace aoq::device {

// Rows of one operand, (count, width), or (anchors · candidates, width); scale is filled in for cosine similarity.
template <class Element>
struct Rows {
  const Element* data = nullptr;
  int64_t stride = 0, count = 0;
  Compute<Element>* scale = nullptr;
};

template <class Element>
struct Embeddings {
  Rows<Element> image, text, hard_image, hard_text, hard_text_image, hard_image_text;
  int64_t width;                                      // a multiple of 16 bytes
  int64_t text_candidates = 1, image_candidates = 1;  // an anchor has
  Objective objective = Objective::kOnlineTriplet;
  Similarity similarity = Similarity::kDot;
  bool allow_tf32 = false;

  bool has_offline() const { return objective >= Objective::kOfflineTriplet; }
  bool has_pairs() const { return objective >= Objective::kOfflineQuintuplet; }
  bool has_choice() const { return has_offline() && (text_candidates > 1 || image_candidates > 1); }
};

// The scores of pairs, and of the candidates between which anchors choose.
template <class T>
struct AnchorBuffers {
  T* scores;                              // (5, count)
  T *text_candidates, *image_candidates;  // (count, candidates)
  int64_t* choice;                        // (2, count)
};

// Calls `call` with the launches for these embeddings, a Scoring.
template <class Element, class Call>
void with_scoring(const Embeddings<Element>& e, Call call) {
  if (e.similarity == Similarity::kOrder) return call(Scoring<Arithmetic::kOrder, Element>{});
  if constexpr (std::is_same_v<Element, float>) {
    if (!e.allow_tf32) return call(Scoring<Arithmetic::kPlain, Element>{});
  }
  if constexpr (std::is_same_v<Element, double>) {
    call(Scoring<Arithmetic::kPlain, Element>{});
  } else {
    call(Scoring<Arithmetic::kTensor, Element>{});
  }
}

template <class Element>
void scale_rows(const Embeddings<Element>& e, cuda::Stream stream) {
  if (e.similarity != Similarity::kCosine) return;
  ScalesParams<Element> params{};
  params.width = e.width;
  for (const auto* rows : {&e.image, &e.text, &e.hard_image, &e.hard_text, &e.hard_text_image, &e.hard_image_text}) {
    if (rows->data) params.part[params.parts++] = {rows->data, rows->stride, rows->count, rows->scale};
  }
  launch_scales(params, stream);
}

template <class Element>
Operand<Element> operand(const Rows<Element>& rows, int64_t entries, const RowMap& map = {}) {
  return {rows.data, rows.stride, entries, rows.scale, map};
}

template <class Element>
Product<Element> all_pairs(const Embeddings<Element>& e) {
  return {operand(e.image, e.image.count), operand(e.text, e.text.count), e.width};
}

template <class Element>
void add_pairs(PairScores<Element>& pairs, const Operand<Element>& left, const Operand<Element>& right, int64_t width,
               Compute<Element>* scores) {
  pairs.part[pairs.parts++] = {{left, right, width}, scores};
}

// p, a, b, c and d of the anchors, as far as the objective needs them; or, where anchors have a choice, p and the
// scores of the candidates.
template <class Element>
PairScores<Element> first_pairs(const Embeddings<Element>& e, const AnchorBuffers<Compute<Element>>& to) {
  PairScores<Element> pairs{};
  const int64_t count = e.image.count;
  const auto image = operand(e.image, count), text = operand(e.text, count);
  add_pairs(pairs, image, text, e.width, to.scores);
  if (e.has_choice()) {
    const int64_t texts = count * e.text_candidates, images = count * e.image_candidates;
    const RowMap anchor_of_text{e.text_candidates, nullptr, true}, anchor_of_image{e.image_candidates, nullptr, true};
    add_pairs(pairs, operand(e.image, texts, anchor_of_text), operand(e.hard_text, texts), e.width, to.text_candidates);
    add_pairs(pairs, operand(e.hard_image, images), operand(e.text, images, anchor_of_image), e.width,
              to.image_candidates);
    return pairs;
  }
  const auto hard_image = operand(e.hard_image, count), hard_text = operand(e.hard_text, count);
  if (e.has_offline()) {
    add_pairs(pairs, image, hard_text, e.width, to.scores + count);
    add_pairs(pairs, hard_image, text, e.width, to.scores + 2 * count);
  }
  if (e.has_pairs()) {
    add_pairs(pairs, hard_image, hard_text, e.width, to.scores + 3 * count);
    add_pairs(pairs, operand(e.hard_text_image, count), operand(e.hard_image_text, count), e.width,
              to.scores + 4 * count);
  }
  return pairs;
}

// c and d of the chosen candidates.
template <class Element>
PairScores<Element> chosen_pairs(const Embeddings<Element>& e, const AnchorBuffers<Compute<Element>>& to) {
  PairScores<Element> pairs{};
  if (!e.has_pairs()) return pairs;
  const int64_t count = e.image.count;
  const RowMap text{e.text_candidates, to.choice, false}, image{e.image_candidates, to.choice + count, false};
  add_pairs(pairs, operand(e.hard_image, count, image), operand(e.hard_text, count, text), e.width,
            to.scores + 3 * count);
  add_pairs(pairs, operand(e.hard_text_image, count, text), operand(e.hard_image_text, count, image), e.width,
            to.scores + 4 * count);
  return pairs;
}

// Launches what must come before the last scores of the anchors, and returns these.
template <class Element>
PairScores<Element> prepare_anchors(const Embeddings<Element>& e, const AnchorBuffers<Compute<Element>>& to,
                                    cuda::Stream stream) {
  const PairScores<Element> first = first_pairs(e, to);
  if (!e.has_choice()) return first;
  const int64_t count = e.image.count;
  with_scoring(e, [&](auto scoring) { scoring.pairs(first, stream); });
  launch_choose(ChooseParams<Compute<Element>>{count,
                                               {{to.text_candidates, e.text_candidates, to.scores + count},
                                                {to.image_candidates, e.image_candidates, to.scores + 2 * count}},
                                               to.choice},
                stream);
  return chosen_pairs(e, to);
}

template <class T>
struct WalkBuffers {
  StagedNegatives<T> row_chunks, column_chunks, rows, columns;
};

template <class T>
StagedNegatives<T> take_staged(cuda::Arena& arena, int64_t count, int64_t chunks) {
  T* const hinge = arena.take<T>(2 * count * chunks);
  return {arena.take<int64_t>(2 * count * chunks), hinge};
}

template <class T>
WalkBuffers<T> take_walk(cuda::Arena& arena, int64_t rows, int64_t columns) {
  return {take_staged<T>(arena, rows, walk_chunks(rows, columns)),
          take_staged<T>(arena, columns, walk_chunks(columns, rows)), take_staged<T>(arena, rows, 1),
          take_staged<T>(arena, columns, 1)};
}

// Whether packed keys can hold the online negatives; otherwise a walk finds them.
template <class Element>
constexpr bool has_packed_keys(Online online) {
  return !std::is_same_v<Element, double> && online != Online::kAll;
}

// The online negatives of both directions into buffers.rows and buffers.columns.
template <class Element>
void walk_negatives(const Embeddings<Element>& e, const NegativeRules<Compute<Element>>& rules, Online online,
                    double margin, const WalkBuffers<Compute<Element>>& buffers, cuda::Stream stream) {
  const int64_t row_chunks = walk_chunks(rules.rows, rules.columns);
  const int64_t column_chunks = walk_chunks(rules.columns, rules.rows);
  const WalkParams<Element> walk{
      all_pairs(e),         rules, online, Compute<Element>(margin), row_chunks, column_chunks, buffers.row_chunks,
      buffers.column_chunks};
  with_scoring(e, [&](auto scoring) { scoring.walk(walk, stream); });
  launch_fold(FoldParams<Compute<Element>>{{{rules.rows, row_chunks, buffers.row_chunks, buffers.rows},
                                            {rules.columns, column_chunks, buffers.column_chunks, buffers.columns}}},
              stream);
}

// What stays zero between launches.
struct Workspace {
  uint64_t *row_key, *column_key;  // (rows,), (columns,)
  uint32_t* ticket;
};

template <class T>
struct ForwardBuffers {
  AnchorBuffers<T> anchors;
  WalkBuffers<T> walk;
  double* partial;  // of FinishParams
};

template <class Element>
AnchorBuffers<Compute<Element>> take_anchors(cuda::Arena& arena, const Embeddings<Element>& e, int64_t* choice) {
  using T = Compute<Element>;
  const int64_t count = e.image.count, candidates = e.has_choice() ? count : 0;
  T* const scores = arena.take<T>(5 * count);
  T* const texts = arena.take<T>(candidates * e.text_candidates);
  return {scores, texts, arena.take<T>(candidates * e.image_candidates), choice};
}

template <class Element>
void take_scales(cuda::Arena& arena, Embeddings<Element>& e) {
  if (e.similarity != Similarity::kCosine) return;
  for (auto* rows : {&e.image, &e.text, &e.hard_image, &e.hard_text, &e.hard_text_image, &e.hard_image_text}) {
    if (rows->data) rows->scale = arena.take<Compute<Element>>(rows->count);
  }
}

// Lays out the memory of a forward pass, the scales within `e` included.
template <class Element>
ForwardBuffers<Compute<Element>> take_forward(cuda::Arena& arena, Embeddings<Element>& e, Online online,
                                              int64_t* choice) {
  using T = Compute<Element>;
  take_scales(arena, e);
  const int64_t count = e.image.count, walked = has_packed_keys<Element>(online) ? 0 : count;
  const AnchorBuffers<T> anchors = take_anchors(arena, e, choice);
  const WalkBuffers<T> walk = take_walk<T>(arena, walked, walked);
  return {anchors, walk, arena.take<double>(tiles_along(count, kFinishAnchors) + 1)};
}

// The whole forward pass.
template <class Element, class T = Compute<Element>>
void run_forward(const Embeddings<Element>& e, const int64_t* group, const LossParams& loss, const Workspace& workspace,
                 const ForwardBuffers<T>& buffers, FinishOutputs<T> out, cuda::Stream stream) {
  const int64_t count = e.image.count;
  const T* const scores = buffers.anchors.scores;
  if (e.has_choice()) out.choice = nullptr;
  scale_rows(e, stream);
  PairScores<Element> pairs = prepare_anchors(e, buffers.anchors, stream);
  NegativeRules<T> rules{count, count, 0, group, nullptr};
  if (loss.online != Online::kHardest || !has_packed_keys<Element>(loss.online)) {
    with_scoring(e, [&](auto scoring) { scoring.pairs(pairs, stream); });
    pairs = {};
    if (loss.online != Online::kHardest) rules.positive = scores;
  }
  const auto finish = [&](const auto& text, const auto& image) {
    return FinishParams<std::decay_t<decltype(text)>>{count,           scores,          loss, text, image, out,
                                                      buffers.partial, workspace.ticket};
  };
  if constexpr (!std::is_same_v<Element, double>) {
    if (has_packed_keys<Element>(loss.online)) {
      const auto packed = finish(PackedNegatives{workspace.row_key}, PackedNegatives{workspace.column_key});
      const bool finishes = count > 0 && hardest_may_finish(count, count);
      with_scoring(e, [&](auto scoring) {
        scoring.hardest({all_pairs(e), rules, workspace.row_key, workspace.column_key, pairs, finishes, packed},
                        stream);
      });
      if (!finishes) launch_finish(packed, stream);
      return;
    }
  }
  walk_negatives(e, rules, loss.online, loss.margin_online, buffers.walk, stream);
  launch_finish(finish(buffers.walk.rows, buffers.walk.columns), stream);
}

// The scores of the anchors alone, for a batch that is spread over processes.
template <class Element>
void run_anchor_scores(const Embeddings<Element>& e, const AnchorBuffers<Compute<Element>>& to, cuda::Stream stream) {
  scale_rows(e, stream);
  const PairScores<Element> pairs = prepare_anchors(e, to, stream);
  with_scoring(e, [&](auto scoring) { scoring.pairs(pairs, stream); });
}

// Where online negatives go: as (2, N) arrays, or as indices and scores; null where they are not wanted.
template <class T>
struct NegativeOutputs {
  StagedNegatives<T> staged;
  int64_t* index;
  T* score;
};

// The online negatives of R images among C texts, and of these texts among these images.
template <class Element, class T = Compute<Element>>
void run_online_negatives(const Embeddings<Element>& e, NegativeRules<T> rules, Online online, double margin,
                          const Workspace& workspace, const WalkBuffers<T>& buffers, const NegativeOutputs<T>& rows,
                          const NegativeOutputs<T>& columns, cuda::Stream stream) {
  const auto unpack = [&](const auto& by_row, const auto& by_column) {
    using Negatives = std::decay_t<decltype(by_row)>;
    launch_unpack(UnpackParams<Negatives>{{{rules.rows, by_row, rows.staged, rows.index, rows.score},
                                           {rules.columns, by_column, columns.staged, columns.index, columns.score}}},
                  stream);
  };
  if (online == Online::kHardest) rules.positive = nullptr;
  scale_rows(e, stream);
  if constexpr (!std::is_same_v<Element, double>) {
    if (has_packed_keys<Element>(online)) {
      HardestParams<Element> params{};
      params.all = all_pairs(e), params.rules = rules;
      params.row_key = workspace.row_key, params.column_key = workspace.column_key;
      with_scoring(e, [&](auto scoring) { scoring.hardest(params, stream); });
      return unpack(PackedNegatives{workspace.row_key}, PackedNegatives{workspace.column_key});
    }
  }
  walk_negatives(e, rules, online, margin, buffers, stream);
  unpack(buffers.rows, buffers.columns);
}

}  // namespace aoq::device
