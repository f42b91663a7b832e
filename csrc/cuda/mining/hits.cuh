// Appends the scores of a tile that are within the limits of their row or of their column to the hits of these. They go
// through a queue in shared memory: whoever finds one does not wait for its place in global memory, and whoever takes
// one from the queue works beside all the other threads.
#pragma once

#include "cuda/mining/mining_params.h"
#include "cuda/tile/scores.cuh"

namespace aoq::device {

struct QueuedHit {
  float score;
  uint32_t place;  // the sides that want it, row and column within the tile
};

inline constexpr uint32_t kByRow = 1u << 30, kByColumn = 1u << 31, kRowShift = 15, kPlaceMask = (1u << kRowShift) - 1;

// Which scores of a line are hits. NaN is one: nothing is known of its pair.
struct Window {
  float least, most;

  AOQ_DEVICE bool has(float score) const { return !(score < least) && !(score > most); }
};

// Shared memory of a block, for half of its columns at a time: then there is room for all of them.
template <class Config>
struct HitQueue {
  Window row[Config::kRows], column[Config::kColumns];
  uint32_t count, padding;
  QueuedHit hit[Config::kRows * Config::kColumns / 2];
};

AOQ_DEVICE Window window_of(const Hits& hits, int64_t line) {
  constexpr float kInfinity = std::numeric_limits<float>::infinity();
  if (!hits.found || line >= hits.lines.count) return {kInfinity, -kInfinity};
  return {hits.least[line], hits.most[line]};
}

AOQ_DEVICE void append_hit(const Hits& hits, int64_t line, float score, int64_t place) {
  const uint32_t slot = atomic_add(hits.found + line, 1);
  if (slot < hits.capacity) hits.keys[line * hits.capacity + slot] = top_k_key(score, uint32_t(place));
}

template <class Element>
AOQ_DEVICE void take_hit(const HitsParams<Element>& p, const QueuedHit& hit, int64_t first_row, int64_t first_column) {
  const int64_t row = first_row + (hit.place >> kRowShift & kPlaceMask),
                column = first_column + (hit.place & kPlaceMask);
  if (row >= p.rows.lines.count || column >= p.columns.lines.count) return;
  const int64_t i = p.rows.lines.at(row), j = p.columns.lines.at(column);
  if (belong_together(p.row_identity, i, p.column_identity, j)) return;
  if (hit.place & kByRow && p.rows.found) append_hit(p.rows, row, hit.score, j);  // NaN passes where no side wants it
  if (hit.place & kByColumn && p.columns.found) append_hit(p.columns, column, hit.score, i);
}

// By all threads; the queue is empty afterwards.
template <class Config, class Element>
AOQ_DEVICE void take_hits(HitQueue<Config>& queue, const HitsParams<Element>& p, int64_t row, int64_t column) {
  const uint32_t count = queue.count;
  for (uint32_t h = thread_index(); h < count; h += Config::kThreads) take_hit(p, queue.hit[h], row, column);
  sync_block();
  if (thread_index() == 0) queue.count = 0;
  sync_block();
}

// Places of a thread differ by constants.
template <class Scores>
AOQ_DEVICE uint32_t place_of(int i, int j) {
  return (uint32_t(Scores::row(i)) << kRowShift) + uint32_t(Scores::column(j));
}

// Queues the hits of this thread in columns kFirst, kFirst + 1, …, kFirst + kCount − 1 of those that it holds.
template <int kFirst, int kCount, class Scores, class Queue>
AOQ_DEVICE void queue_hits(const Scores& scores, Queue& queue) {
  const uint32_t origin = place_of<Scores>(0, 0);
  Window by_row[Scores::kRows];
#pragma unroll
  for (int i = 0; i < Scores::kRows; ++i) by_row[i] = queue.row[Scores::row(i)];
#pragma unroll
  for (int j = kFirst; j < kFirst + kCount; ++j) {
    const Window by_column = queue.column[Scores::column(j)];
#pragma unroll
    for (int i = 0; i < Scores::kRows; ++i) {
      const float score = scores.at(i, j);
      const uint32_t sides = (by_row[i].has(score) ? kByRow : 0) | (by_column.has(score) ? kByColumn : 0);
      if (!sides) continue;
      const uint32_t place = (origin | sides) + (place_of<Scores>(i, j) - place_of<Scores>(0, 0));
      queue.hit[atomic_add(&queue.count, 1)] = {score, place};
    }
  }
}

// The tile's first entries are `row` and `column`. Shared memory is free.
template <class Scores, class Element>
AOQ_DEVICE void append_hits(const Scores& scores, const HitsParams<Element>& p, int64_t row, int64_t column) {
  using Config = typename Scores::Config;
  using Queue = HitQueue<Config>;
  constexpr int kHalf = Scores::kColumns / 2;
  static_assert(Config::kRows <= int(kPlaceMask) && Config::kColumns <= int(kPlaceMask));
  Queue& queue = *reinterpret_cast<Queue*>(shared_memory());
  if (thread_index() == 0) queue.count = 0;
  for (int r = thread_index(); r < Config::kRows; r += Config::kThreads) queue.row[r] = window_of(p.rows, row + r);
  for (int c = thread_index(); c < Config::kColumns; c += Config::kThreads) {
    queue.column[c] = window_of(p.columns, column + c);
  }
  sync_block();
  queue_hits<0, kHalf>(scores, queue);
  sync_block();
  take_hits(queue, p, row, column);
  queue_hits<kHalf, kHalf>(scores, queue);
  sync_block();
  take_hits(queue, p, row, column);
}

}  // namespace aoq::device
