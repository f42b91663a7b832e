// The last step of a forward pass: from the scores of each anchor to its loss, its derivatives, and their sum.
#pragma once

#include "cuda/device/last_block.cuh"
#include "cuda/device/warp.cuh"
#include "cuda/loss/online_negative.cuh"

namespace aoq::device {

// Shared memory of a block that finishes; the kernel's other use of it must be over.
struct FinishShared {
  uint32_t is_last;
  double sums[32];
};

// Whether this block is the last of the grid.
AOQ_DEVICE bool is_last_block(uint32_t* ticket, FinishShared& shared) {
  return is_last_block(ticket, block_count(), shared.is_last);
}

// Returns L_i. Other blocks of this launch may have written the scores.
template <class Negatives>
AOQ_DEVICE auto finish_anchor(const FinishParams<Negatives>& p, int64_t i) {
  using T = typename Negatives::T;
  const int scores = p.loss.has_pairs() ? 5 : p.loss.has_offline() ? 3 : 1;
  const auto score = [&](int row) { return row < scores ? load_fresh(p.scores + row * p.count + i) : T(0); };
  const AnchorScores<T> s{score(0), score(1), score(2), score(3), score(4)};
  const OnlineNegative<T> text = take_negative(p.text, p.count, i), image = take_negative(p.image, p.count, i);
  p.out.text_index[i] = text.exists() ? text.index : -1;
  p.out.image_index[i] = image.exists() ? image.index : -1;
  if (p.out.choice) p.out.choice[i] = p.out.choice[p.count + i] = 0;
  const T loss = anchor_loss(s, online_hinge(text, s.positive, p.loss), online_hinge(image, s.positive, p.loss), p.loss,
                             p.out.saved, p.count, i);
  if (p.out.losses) p.out.losses[i] = loss;
  return loss;
}

template <class Negatives>
AOQ_DEVICE void store_total(const FinishParams<Negatives>& p, double sum) {
  *p.out.total = typename Negatives::T(p.loss.reduction == Reduction::kMean && p.count ? sum / double(p.count) : sum);
}

// By one block, for small batches.
template <int kThreads, class Negatives>
AOQ_DEVICE void finish_in_block(const FinishParams<Negatives>& p, FinishShared& shared) {
  double sum = 0;
  for (int64_t i = thread_index(); i < p.count; i += kThreads) sum += finish_anchor(p, i);
  if (!p.out.total) return;
  sum = block_sum<kThreads>(sum, shared.sums);
  if (thread_index() == 0) store_total(p, sum);
}

// By a grid whose last block adds what the others summed. At least one block, so that no anchors give a loss of 0.
template <class Negatives>
struct FinishKernel {
  using Params = FinishParams<Negatives>;
  static constexpr int kThreads = kFinishAnchors;
  static constexpr int kSharedBytes = sizeof(FinishShared);

  static int64_t blocks(const Params& p) { return p.count ? tiles_along(p.count, kThreads) : 1; }

  AOQ_DEVICE static void run(const Params& p) {
    FinishShared& shared = *reinterpret_cast<FinishShared*>(shared_memory());
    const int64_t i = int64_t(block_index()) * kThreads + thread_index();
    double sum = i < p.count ? double(finish_anchor(p, i)) : 0;
    if (!p.out.total) return;
    sum = block_sum<kThreads>(sum, shared.sums);
    if (thread_index() == 0) p.partial[block_index()] = sum;
    if (!is_last_block(p.ticket, shared)) return;
    sum = 0;
    for (unsigned b = thread_index(); b < block_count(); b += kThreads) sum += load_fresh(p.partial + b);
    sum = block_sum<kThreads>(sum, shared.sums);
    if (thread_index() == 0) store_total(p, sum);
  }
};

}  // namespace aoq::device
