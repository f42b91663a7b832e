// The size of the cache that tiles are cut for.
#pragma once

#include <unistd.h>

#include <cstdint>

namespace aoq::cpu {

// Of one core, in bytes; a usual size where the system does not say.
inline int64_t second_level_cache_bytes() {
  constexpr int64_t kUsual = int64_t(1) << 20;
  const long reported = sysconf(_SC_LEVEL2_CACHE_SIZE);
  return reported > 0 ? reported : kUsual;
}

}  // namespace aoq::cpu
