// Mining: its plan with every kernel in it.
#include <stdexcept>

#include "cuda/mining/mining_plan.h"
#include "cuda/mining/scan.cuh"
#include "cuda/mining/small_kernels.cu"
#include "simt/binding.h"

namespace aoq::device {
namespace {

using simt::Call;

Lists lists_of(Call& call, const std::string& side, int64_t count) {
  Lists lists{};
  lists.count = count;
  lists.caps = call.input<float>(side + "_caps");
  if (!call.has(side + "_keys")) return lists;
  lists.k = call.shape(side + "_keys")[1];
  lists.before = call.input<TopKKey>(side + "_keys");
  lists.keys = call.output<TopKKey>(side + "_result", {count, lists.k});
  return lists;
}

template <class Element>
MiningSide<Element> side_of(Call& call, const std::string& side) {
  const auto& shape = call.shape(side);
  return {call.input<Element>(side), shape[1], call.integer("first_" + side),
          Identities{call.input<int64_t>(side + "_ids"), call.input<int64_t>(side + "_labels"),
                     call.input<int64_t>(side + "_offsets")},
          lists_of(call, side, shape[0])};
}

template <class Element>
void mine(Call& call) {
  Mining<Element> mining{};
  mining.anchors = side_of<Element>(call, "anchor");
  mining.candidates = side_of<Element>(call, "candidate");
  mining.width = call.integer("width");
  mining.multiplies_plainly = call.integer("arithmetic") == 1;
  const MiningBudget budget{call.integer("bytes"), call.integer("least_sampled"), call.integer("most_rows")};
  const Lists &anchors = mining.anchors.lists, &candidates = mining.candidates.lists;
  mining.choice = choose_mining(anchors.count, candidates.count, anchors.k, candidates.k, budget);
  cuda::Arena measure;
  take_mining(measure, mining);
  simt::Buffer memory(measure.bytes());
  cuda::Arena arena(memory.data.get());
  const Failures failures = run_mining(take_mining(arena, mining), call.schedule());
  auto* const report = call.output<int64_t>("report", {6});
  const int64_t said[6] = {mining.choice.blocks,       mining.choice.anchors.sample, mining.choice.candidates.sample,
                           int64_t(failures.count[0]), int64_t(failures.count[1]),   mining.choice.bytes};
  std::copy(said, said + 6, report);
}

AOQ_SIMT_BINDING(mine) {
  switch (call.integer("element")) {
    case 0: return mine<float>(call);
    case 2: return mine<BFloat16>(call);
    case 3: return mine<Half>(call);
  }
  throw std::invalid_argument("element");
}

}  // namespace
}  // namespace aoq::device
