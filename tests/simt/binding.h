// How a kernel is reached from Python, without pybind11 in every file. In tests/simt/bind_<something>.cpp:
//
//   AOQ_SIMT_BINDING(row_sums) {                              // a function of simt::Call& call
//     const int64_t rows = call.integer("rows");
//     const float* matrix = call.input<float>("matrix");      // a copy of exactly that size, 256-byte aligned
//     float* sums = call.output<float>("sums", {rows});       // poisoned; returned to Python
//     cuda::launch<RowSums>(rows, 0, call.schedule(), {matrix, sums, rows});
//   }
//
// and in Python: aoq_simt.run("row_sums", seed=3, rows=4, matrix=array) -> {"sums": array}. See tests/simt/__init__.py.
#pragma once

#include <cstdint>
#include <cstdlib>
#include <map>
#include <memory>
#include <string>
#include <type_traits>
#include <vector>

#include "simt/runtime.h"

namespace aoq::simt {

// Global memory of exactly `bytes` bytes, so that AddressSanitizer sees the first byte beyond; poisoned with 0xFF.
struct Buffer {
  explicit Buffer(size_t bytes);

  std::unique_ptr<char, decltype(&std::free)> data;
  size_t bytes;
};

struct Array {
  std::shared_ptr<Buffer> buffer;
  std::vector<int64_t> shape;
  char kind;  // as NumPy's: 'f', 'i', 'u'; 'u' also for types that NumPy lacks, such as bfloat16
  size_t item_bytes;
  bool returned = false;
};

// The arguments of one call, by name, and what it returns.
class Call {
 public:
  std::map<std::string, Array> arrays;
  std::map<std::string, double> numbers;
  std::map<std::string, int64_t> integers;

  // None, and an argument that was not given, are absent.
  bool has(const std::string& name) const;
  int64_t integer(const std::string& name) const;  // or a bool
  double number(const std::string& name) const;
  const std::vector<int64_t>& shape(const std::string& name) const;
  Schedule schedule() const;  // from seed, resident_blocks, most_switches and cuts_off

  // Null where the argument is absent. T and the array agree in size; the kind is the caller's affair.
  template <class T>
  const T* input(const std::string& name) const {
    return has(name) ? static_cast<const T*>(items(name, sizeof(T))) : nullptr;
  }

  // An argument that the kernel changes, and that is returned.
  template <class T>
  T* in_out(const std::string& name) {
    if (!has(name)) return nullptr;
    arrays.at(name).returned = true;
    return static_cast<T*>(items(name, sizeof(T)));
  }

  template <class T>
  T* output(const std::string& name, const std::vector<int64_t>& shape) {
    const char kind = std::is_floating_point_v<T> ? 'f' : std::is_signed_v<T> ? 'i' : 'u';
    return static_cast<T*>(add_output(name, shape, kind, sizeof(T)));
  }

 private:
  void* items(const std::string& name, size_t item_bytes) const;
  void* add_output(const std::string& name, const std::vector<int64_t>& shape, char kind, size_t item_bytes);
};

using Binding = void (*)(Call&);
std::map<std::string, Binding>& bindings();

struct Registration {
  Registration(const char* name, Binding binding) { bindings()[name] = binding; }
};

}  // namespace aoq::simt

#define AOQ_SIMT_BINDING(name)                                                   \
  static void bind_##name(aoq::simt::Call& call);                                \
  static const aoq::simt::Registration registration_##name{#name, &bind_##name}; \
  static void bind_##name([[maybe_unused]] aoq::simt::Call& call)
