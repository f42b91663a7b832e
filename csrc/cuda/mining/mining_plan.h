// Which kernels mining a tile launches, in which order, and the memory they share. Free of torch.
//
// Limits come from a sample; one walk over the scores appends the pairs within them to the hits of their anchor and of
// their candidate, block by block, and each block is merged into the lists. A list that lost hits, or whose limit was
// too high, begins again from what it was, against panels of places that there is room for: that needs no guess.
#pragma once

#include "cuda/host/arena.h"
#include "cuda/mining/mining_choice.h"

namespace aoq::device {

template <class Element>
struct Mining {
  MiningSide<Element> anchors, candidates;
  int64_t width;            // a multiple of 16 bytes
  bool multiplies_plainly;  // float32 alone: as float32, not as TF32
  MiningChoice choice;
  uint32_t* failures;  // (2,)
  int64_t* chosen[2];  // (lists,) of each side
  char* workspace;     // choice.bytes

  double unit() const { return multiplies_plainly ? kFloatUnit : kTensorUnit; }
};

inline void take_lists(cuda::Arena& arena, Lists& lists) {
  lists.floor = arena.take<TopKKey>(lists.count);
  lists.guess = arena.take<float>(lists.count);
  lists.failed = arena.take<uint32_t>(lists.count);
  lists.bound = arena.take<RowBound>(lists.count);
  lists.greatest = arena.take<uint64_t>(2);
}

// Lays out the memory of mining a tile.
template <class Element>
Mining<Element> take_mining(cuda::Arena& arena, Mining<Element> m) {
  take_lists(arena, m.anchors.lists);
  take_lists(arena, m.candidates.lists);
  m.failures = arena.take<uint32_t>(2);
  m.chosen[0] = arena.take<int64_t>(m.anchors.lists.count);
  m.chosen[1] = arena.take<int64_t>(m.candidates.lists.k ? m.candidates.lists.count : 0);
  m.workspace = arena.take<char>(m.choice.bytes);
  return m;
}

// Calls `call` with the launches of these products, a MiningScan.
template <class Element, class Call>
void with_scan(const Mining<Element>& m, Call call) {
  if constexpr (std::is_same_v<Element, float>) {
    if (m.multiplies_plainly) return call(MiningScan<Arithmetic::kPlain, Element>{});
  }
  call(MiningScan<Arithmetic::kTensor, Element>{});
}

inline Entries all_of(const Lists& lists) { return {0, 1, lists.count}; }

// Some rows of a side as an operand; evenly spaced ones need no index.
template <class Element>
Operand<Element> operand_of(const MiningSide<Element>& side, const Entries& entries) {
  if (entries.chosen) {
    return {side.rows, side.stride, entries.count, nullptr, RowMap{0, entries.chosen + entries.first, false}};
  }
  return {side.rows + entries.first * side.stride, entries.step * side.stride, entries.count, nullptr, {}};
}

template <class Element>
void find_bounds(const Mining<Element>& m, cuda::Stream stream) {
  for (const auto* side : {&m.anchors, &m.candidates}) {
    launch_clear({reinterpret_cast<uint32_t*>(side->lists.greatest), 4}, stream);
  }
  const BoundsParams<Element> params{{m.anchors, m.candidates}, m.width};
  if constexpr (std::is_same_v<Element, float>) {
    if (m.multiplies_plainly) return launch_bounds<Arithmetic::kPlain>(params, stream);
  }
  launch_bounds<Arithmetic::kTensor>(params, stream);
}

// Guesses a limit for each list of `line`.
template <class Element>
void guess_limits(const Mining<Element>& m, const MiningSide<Element>& line, const MiningSide<Element>& place,
                  const ListChoice& choice, cuda::Stream stream) {
  if (!choice.is_sampled()) return;
  const int64_t step = choice.places / choice.sample, lines = line.lists.count;
  const Entries places{(choice.places - (choice.sample - 1) * step - 1) / 2, step, choice.sample};
  const int64_t at_a_time = m.choice.bytes / (choice.sample * int64_t(sizeof(float)));
  auto* const scores = reinterpret_cast<float*>(m.workspace);
  for (int64_t first = 0; first < lines; first += at_a_time) {
    const Entries some{first, 1, std::min(at_a_time, lines - first)};
    const SampleParams<Element> sample{{operand_of(line, some), operand_of(place, places), m.width}, scores};
    with_scan(m, [&](auto scan) { scan.sample(sample, stream); });
    launch_guess({line.lists, some, places, line.identity, place.identity, choice.rank, scores}, stream);
  }
}

// Room for hits, and the limits of the lines.
template <class Element>
Hits take_hits(cuda::Arena& arena, const Mining<Element>& m, const Lists& lists, const Lists& of_places,
               const Entries& lines, int64_t capacity, cuda::Stream stream) {
  float* const least = arena.take<float>(lines.count);
  float* const most = arena.take<float>(lines.count);
  auto* const found = arena.take<uint32_t>(lines.count);
  launch_limits({lists, lines, of_places.greatest, m.width, m.unit(), least, most, found}, stream);
  return {lines, least, most, found, arena.take<TopKKey>(lines.count * capacity), capacity};
}

inline int64_t padded_to_power(int64_t k) {
  int64_t padded = 1;
  while (padded < k) padded *= 2;
  return padded;
}

template <class Element>
void merge(const Mining<Element>& m, const MiningSide<Element>& line, const MiningSide<Element>& place,
           const Hits& hits, cuda::Stream stream) {
  launch_merge(MergeParams<Element>{line, place, m.width, m.unit(), hits, padded_to_power(line.lists.k)}, stream);
}

// The hits of both sides in one block of anchors, merged.
template <class Element>
void mine_block(const Mining<Element>& m, int64_t block, cuda::Stream stream) {
  const Lists &anchors = m.anchors.lists, &candidates = m.candidates.lists;
  const Entries rows{block, m.choice.blocks, tiles_along(anchors.count - block, m.choice.blocks)};
  const Entries columns = all_of(candidates);
  cuda::Arena arena(m.workspace);
  HitsParams<Element> params{{operand_of(m.anchors, rows), operand_of(m.candidates, columns), m.width},
                             take_hits(arena, m, anchors, candidates, rows, m.choice.row_capacity, stream),
                             Hits{columns},
                             m.anchors.identity,
                             m.candidates.identity};
  if (candidates.k) {
    params.columns = take_hits(arena, m, candidates, anchors, columns, m.choice.column_capacity, stream);
  }
  with_scan(m, [&](auto scan) { scan.hits(params, stream); });
  merge(m, m.anchors, m.candidates, params.rows, stream);
  if (candidates.k) merge(m, m.candidates, m.anchors, params.columns, stream);
}

// The lists that failed, from the beginning. There is room for every place of a panel, and no limit is guessed: nothing
// can be lost.
template <class Element>
void mine_again(const Mining<Element>& m, MiningSide<Element> line, const MiningSide<Element>& place,
                const Entries& failed, cuda::Stream stream) {
  const AgainChoice again = choose_again(failed.count, place.lists.count, m.choice.bytes);
  launch_restore({line.lists, failed}, stream);
  line.lists.guess = nullptr;
  for (int64_t first = 0; first < failed.count; first += again.lines) {
    const Entries lines{first, 1, std::min(again.lines, failed.count - first), failed.chosen};
    for (int64_t start = 0; start < place.lists.count; start += again.places) {
      const Entries places{start, 1, std::min(again.places, place.lists.count - start)};
      cuda::Arena arena(m.workspace);
      const Hits hits = take_hits(arena, m, line.lists, place.lists, lines, places.count, stream);
      const Product<Element> product{operand_of(line, lines), operand_of(place, places), m.width};
      const HitsParams<Element> params{product, hits, Hits{places}, line.identity, place.identity};
      with_scan(m, [&](auto scan) { scan.hits(params, stream); });
      merge(m, line, place, hits, stream);
    }
  }
}

template <class Element>
Failures find_failures(const Mining<Element>& m, cuda::Stream stream) {
  launch_clear({m.failures, 2}, stream);
  const Lists* const sides[2] = {&m.anchors.lists, &m.candidates.lists};
  for (int side = 0; side < 2; ++side) {
    if (sides[side]->k == 0) continue;
    launch_verdict({*sides[side], sides[1 - side]->greatest, m.width, m.unit(), m.chosen[side], m.failures + side},
                   stream);
  }
  return read_failures(m.failures, stream);
}

// The lists of both sides after this tile, into lists.keys; neither side is empty. Waits for the device once. Returns
// what had to be mined again.
template <class Element>
Failures run_mining(const Mining<Element>& m, cuda::Stream stream) {
  find_bounds(m, stream);
  for (const auto* side : {&m.anchors, &m.candidates}) launch_restore({side->lists, all_of(side->lists)}, stream);
  guess_limits(m, m.anchors, m.candidates, m.choice.anchors, stream);
  guess_limits(m, m.candidates, m.anchors, m.choice.candidates, stream);
  for (int64_t block = 0; block < m.choice.blocks; ++block) mine_block(m, block, stream);
  const Failures failures = find_failures(m, stream);
  const auto failed = [&](int side) { return Entries{0, 1, failures.count[side], m.chosen[side]}; };
  if (failures.count[0]) mine_again(m, m.anchors, m.candidates, failed(0), stream);
  if (failures.count[1]) mine_again(m, m.candidates, m.anchors, failed(1), stream);
  return failures;
}

}  // namespace aoq::device
