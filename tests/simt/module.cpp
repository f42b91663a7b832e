// The Python module: arguments in, NumPy arrays out. The kernels are in the bind_*.cpp files.
#include <pybind11/numpy.h>
#include <pybind11/pybind11.h>
#include <pybind11/stl.h>

#include <cstring>

#include "simt/binding.h"

namespace py = pybind11;

namespace aoq::simt {

static Array to_array(const py::handle& value) {
  const auto given = py::array::ensure(value, py::array::c_style);
  if (!given) throw py::error_already_set();
  Array array{
      std::make_shared<Buffer>(given.nbytes()), {}, given.dtype().kind(), static_cast<size_t>(given.itemsize())};
  array.shape.assign(given.shape(), given.shape() + given.ndim());
  std::memcpy(array.buffer->data.get(), given.data(), given.nbytes());
  return array;
}

static py::array to_numpy(const Array& array) {
  const py::dtype dtype(std::string(1, array.kind) + std::to_string(array.item_bytes));
  py::array result(dtype, array.shape);
  std::memcpy(result.mutable_data(), array.buffer->data.get(), array.buffer->bytes);
  return result;
}

static py::dict run(const std::string& name, const py::kwargs& arguments) {
  const auto binding = bindings().find(name);
  if (binding == bindings().end()) throw py::key_error("no binding named " + name);
  Call call;
  for (const auto& [key, value] : arguments) {
    const auto argument = key.cast<std::string>();
    if (value.is_none()) continue;
    if (py::isinstance<py::int_>(value) || py::isinstance<py::bool_>(value)) {
      call.integers[argument] = value.cast<int64_t>();
    } else if (py::isinstance<py::float_>(value)) {
      call.numbers[argument] = value.cast<double>();
    } else {
      call.arrays.insert_or_assign(argument, to_array(value));
    }
  }
  binding->second(call);
  py::dict results;
  for (const auto& [key, array] : call.arrays) {
    if (array.returned) results[key.c_str()] = to_numpy(array);
  }
  return results;
}

}  // namespace aoq::simt

PYBIND11_MODULE(aoq_simt, module) {
  using namespace aoq::simt;
  py::register_local_exception<Error>(module, "Error", PyExc_RuntimeError);
  module.def("run", &run, py::arg("name"));
  module.def("bindings", [] {
    std::vector<std::string> names;
    for (const auto& [name, binding] : bindings()) names.push_back(name);
    return names;
  });
  module.def("last_report", [] { return py::make_tuple(last_report().switches, last_report().trace); });
}
