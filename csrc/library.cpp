// Every operator schema. Each implementation is registered beside its code; aoq_ext/ops/fakes.py says what shapes they
// return, aoq_ext/ops/autograd.py how they are differentiated. `numbers` and `codes` are the options of the loss, in
// the order of LossParams.
#include <torch/csrc/stable/library.h>

STABLE_TORCH_LIBRARY(aoq, m) {
  m.def(
      "quintuplet_forward(Tensor image, Tensor text, Tensor? hard_image, Tensor? hard_text, Tensor? hard_text_image, "
      "Tensor? hard_image_text, Tensor? group_ids, float[] numbers, int[] codes) -> "
      "(Tensor loss, Tensor text_index, Tensor image_index, Tensor choice, Tensor saved)");
  m.def(
      "quintuplet_backward(Tensor grad_loss, Tensor image, Tensor text, Tensor? hard_image, Tensor? hard_text, "
      "Tensor? hard_text_image, Tensor? hard_image_text, Tensor? group_ids, Tensor text_index, Tensor image_index, "
      "Tensor choice, Tensor saved, float[] numbers, int[] codes, int needs, Tensor? all_image=None, "
      "Tensor? all_text=None, int first=0) -> (Tensor image, Tensor text, Tensor hard_image, Tensor hard_text, "
      "Tensor hard_text_image, Tensor hard_image_text)");
  m.def(
      "quintuplet_score_forward(Tensor scores, Tensor? hard_text_scores, Tensor? hard_image_scores, "
      "Tensor? hard_pair_scores, Tensor? partner_pair_scores, Tensor? group_ids, float[] numbers, int[] codes) -> "
      "(Tensor loss, Tensor text_index, Tensor image_index, Tensor saved)");
  m.def(
      "quintuplet_score_backward(Tensor grad_loss, Tensor scores, Tensor? group_ids, Tensor text_index, "
      "Tensor image_index, Tensor saved, float[] numbers, int[] codes, int needs, int first=0) -> "
      "(Tensor scores, Tensor hard_text_scores, Tensor hard_image_scores, Tensor hard_pair_scores, "
      "Tensor partner_pair_scores)");
  m.def(
      "anchor_scores(Tensor image, Tensor text, Tensor? hard_image, Tensor? hard_text, Tensor? hard_text_image, "
      "Tensor? hard_image_text, float[] numbers, int[] codes) -> (Tensor scores, Tensor choice)");
  m.def(
      "online_negatives(Tensor image, Tensor all_text, Tensor all_positive, Tensor? all_group_ids, int first, "
      "float[] numbers, int[] codes) -> "
      "(Tensor row_keys, Tensor row_hinges, Tensor column_keys, Tensor column_hinges)");
  m.def(
      "online_negatives_of_scores(Tensor scores, Tensor all_positive, Tensor? all_group_ids, int first, "
      "float[] numbers, int[] codes) -> "
      "(Tensor row_keys, Tensor row_hinges, Tensor column_keys, Tensor column_hinges)");
  m.def(
      "anchor_losses(Tensor scores, Tensor text_keys, Tensor text_hinges, Tensor image_keys, Tensor image_hinges, "
      "float[] numbers, int[] codes) -> (Tensor losses, Tensor text_index, Tensor image_index, Tensor saved)");
  m.def(
      "hardest_negatives(Tensor image, Tensor text, Tensor? group_ids, bool allow_tf32=False) -> "
      "(Tensor text_index, Tensor text_score, Tensor image_index, Tensor image_score)");
  m.def(
      "mine_tile(Tensor anchors, Tensor candidates, Tensor anchor_keys, Tensor? candidate_keys, int first_anchor, "
      "int first_candidate, Tensor? anchor_ids, Tensor? candidate_ids, Tensor? anchor_labels, Tensor? anchor_offsets, "
      "Tensor? candidate_labels, Tensor? candidate_offsets, Tensor? anchor_caps, Tensor? candidate_caps, "
      "float input_rounding=0.0, int arithmetic=0, int panel=0) -> (Tensor anchor_keys, Tensor candidate_keys)");
}
