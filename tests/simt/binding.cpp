// The arguments of a call, and the list of what can be called.
#include "simt/binding.h"

#include <cstring>

namespace aoq::simt {

constexpr size_t kAlignment = 256;  // of cudaMalloc

Buffer::Buffer(size_t size) : data(nullptr, &std::free), bytes(size) {
  void* memory = nullptr;
  if (posix_memalign(&memory, kAlignment, size) != 0) throw std::bad_alloc();
  data.reset(static_cast<char*>(memory));
  std::memset(memory, 0xff, size);
}

template <class Map>
static const auto& find(const Map& arguments, const std::string& name, const char* kind) {
  const auto found = arguments.find(name);
  if (found == arguments.end()) throw std::invalid_argument("argument '" + name + "': expected " + kind);
  return found->second;
}

bool Call::has(const std::string& name) const { return arrays.count(name) > 0; }

int64_t Call::integer(const std::string& name) const { return find(integers, name, "an integer"); }

double Call::number(const std::string& name) const {
  const auto whole = integers.find(name);
  return whole != integers.end() ? static_cast<double>(whole->second) : find(numbers, name, "a number");
}

const std::vector<int64_t>& Call::shape(const std::string& name) const { return find(arrays, name, "an array").shape; }

Schedule Call::schedule() const {
  Schedule schedule;
  if (integers.count("seed")) schedule.seed = static_cast<uint64_t>(integer("seed"));
  if (integers.count("resident_blocks")) schedule.resident_blocks = static_cast<int>(integer("resident_blocks"));
  if (integers.count("most_switches")) schedule.most_switches = static_cast<uint64_t>(integer("most_switches"));
  if (integers.count("cuts_off")) schedule.cuts_off = integer("cuts_off") != 0;
  return schedule;
}

void* Call::items(const std::string& name, size_t item_bytes) const {
  const Array& array = find(arrays, name, "an array");
  if (array.item_bytes != item_bytes) {
    throw std::invalid_argument("argument '" + name + "': expected items of " + std::to_string(item_bytes) +
                                " bytes, got " + std::to_string(array.item_bytes));
  }
  return array.buffer->data.get();
}

void* Call::add_output(const std::string& name, const std::vector<int64_t>& shape, char kind, size_t item_bytes) {
  size_t count = 1;
  for (const int64_t size : shape) count *= static_cast<size_t>(size);
  const Array array{std::make_shared<Buffer>(count * item_bytes), shape, kind, item_bytes, true};
  arrays.insert_or_assign(name, array);
  return array.buffer->data.get();
}

std::map<std::string, Binding>& bindings() {
  static std::map<std::string, Binding> all;
  return all;
}

}  // namespace aoq::simt
