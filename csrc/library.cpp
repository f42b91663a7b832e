// Every operator schema. Each implementation is registered beside its code; fakes and autograd are in aoq_ext/_ops.py.
#include <torch/csrc/stable/library.h>

STABLE_TORCH_LIBRARY(aoq, m) {
  m.def(
      "quintuplet_forward(Tensor image, Tensor text, Tensor? hard_image, Tensor? hard_text, Tensor? hard_text_image, "
      "Tensor? hard_image_text, Tensor? group_ids, float margin_online, float margin_offline, float alpha, float beta, "
      "int objective, int online, int similarity, int reduction, bool detach_weight, bool clamp_weight) -> "
      "(Tensor loss, Tensor text_index, Tensor image_index, Tensor choice, Tensor saved)");
  m.def(
      "quintuplet_backward(Tensor grad_loss, Tensor image, Tensor text, Tensor? hard_image, Tensor? hard_text, "
      "Tensor? hard_text_image, Tensor? hard_image_text, Tensor? group_ids, Tensor text_index, Tensor image_index, "
      "Tensor choice, Tensor saved, float margin_online, int objective, int online, int similarity, int reduction, "
      "int needs) -> (Tensor image, Tensor text, Tensor hard_image, Tensor hard_text, Tensor hard_text_image, "
      "Tensor hard_image_text)");
}
