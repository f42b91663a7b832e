// The pipeline of a product: slices of the operands arrive while earlier ones are multiplied. Written for asynchronous
// copies of sm_80; a mainloop for another architecture replaces this file and tile_loader.cuh alone.
#pragma once

#include "cuda/tile/loader.cuh"

namespace aoq::device {

// Adds the products of a tile to `scores`, slices in ascending order: a score's bits depend on its two rows alone, not
// on where in which tile it was computed.
template <class Config, class Scores>
AOQ_DEVICE void multiply(SliceLoader<Config, typename Scores::Element> loader, int64_t width, Scores& scores) {
  using Element = typename Scores::Element;
  char* const shared = shared_memory();
  const int slices = int((width * int64_t(sizeof(Element)) + Config::kSliceBytes - 1) / Config::kSliceBytes);
#pragma unroll
  for (int s = 0; s < Config::kStages - 1; ++s) {
    if (s < slices) loader.issue(shared + s * Config::kStageBytes);
    copy_async_commit();
  }
  int read = 0, write = Config::kStages - 1;
  for (int s = 0; s < slices; ++s) {
    copy_async_wait<Config::kStages - 2>();
    sync_block();  // slice s has come for every thread, and every thread has read slice s − 1
    if (s + Config::kStages - 1 < slices) loader.issue(shared + write * Config::kStageBytes);
    copy_async_commit();
    scores.accumulate(shared + read * Config::kStageBytes);
    read = read + 1 == Config::kStages ? 0 : read + 1;
    write = write + 1 == Config::kStages ? 0 : write + 1;
  }
  sync_block();  // the stages are free again
}

}  // namespace aoq::device
