// Which pairs belong together, and are therefore never each other's negatives: those with equal ids, and those that
// share a label.
#pragma once

#include <cstdint>

#include "math/host_device.h"

namespace aoq {

// What is known of the rows of one side; any pointer may be null, and then is on both sides.
struct Identities {
  const int64_t* ids;      // (count,)
  const int64_t* labels;   // those of row i are labels[offsets[i]], …, labels[offsets[i + 1] − 1], ascending
  const int64_t* offsets;  // (count + 1,), null together with labels
};

AOQ_HOST_DEVICE bool share_label(const Identities& x, int64_t i, const Identities& y, int64_t j) {
  int64_t a = x.offsets[i], b = y.offsets[j];
  while (a < x.offsets[i + 1] && b < y.offsets[j + 1]) {
    if (x.labels[a] == y.labels[b]) return true;
    x.labels[a] < y.labels[b] ? ++a : ++b;
  }
  return false;
}

AOQ_HOST_DEVICE bool belong_together(const Identities& x, int64_t i, const Identities& y, int64_t j) {
  return (x.ids != nullptr && x.ids[i] == y.ids[j]) || (x.labels != nullptr && share_label(x, i, y, j));
}

}  // namespace aoq
