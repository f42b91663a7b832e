// Backward pass. With one negative an anchor the gradient is sparse: every row is a short sum, gathered in index order
// and written once. With all negatives the tiles of S are walked again and multiplied out.
#include <tuple>

#include "cpu/all_negatives.h"
#include "cpu/backward_inputs.h"
#include "cpu/score_tiles.h"

namespace aoq::cpu {
namespace {

enum Needs : int64_t {
  kImage = 1,
  kText = 2,
  kHardImage = 4,
  kHardText = 8,
  kHardTextImage = 16,
  kHardImageText = 32,
};

template <class T>
struct Backward {
  Rows<T> image, text;
  Candidates<T> hard_image, hard_text, hard_text_image, hard_image_text;
  const int64_t *text_index, *image_index;  // (B,) hardest online negatives, −1 for none
  const int64_t* choice;                    // (2, B) candidates used, text then image
  const T* saved;                           // (kSavedRows, B)
  std::vector<T> grad;                      // (B,) ∂loss/∂L_i
  Online online;
  Similarity similarity;
  T margin;

  int64_t count() const { return image.count; }
  int64_t width() const { return image.width; }
  T slope(SavedRow row, int64_t i) const { return grad[i] * saved[row * count() + i]; }
  int64_t text_choice(int64_t i) const { return choice[i]; }
  int64_t image_choice(int64_t i) const { return choice[count() + i]; }
};

// The gradient by one embedding row: a sum of slope · ∂sim/∂row, collected first and written once.
template <class T>
class RowGradient {
 public:
  RowGradient(const Backward<T>& b, T* row) : b_(b), row_(row) {}

  void start_from_row() { add(T(1), row_); }  // keep what the row holds already

  // The row is the image x of the pair.
  void by_image(T slope, const T* x, const T* y) {
    if (b_.similarity != Similarity::kOrder) return add(slope, y);
    if (slope != T(0)) order_.push_back({slope, x, y});
  }

  // The row is the text y of the pair.
  void by_text(T slope, const T* x, const T* y) {
    if (b_.similarity != Similarity::kOrder) return add(slope, x);
    if (slope != T(0)) order_.push_back({-slope, x, y});
  }

  void write() {
    weighted_sum(row_, scale_.data(), rows_.data(), int64_t(rows_.size()), b_.width());
    for (const OrderTerm& term : order_) {  // ∂sim/∂x = max(0, y − x) / ‖max(0, y − x)‖ = −∂sim/∂y
      const T distance = order_distance(term.x, term.y, b_.width());
      if (distance != T(0)) add_order(row_, term.slope / distance, term.x, term.y, b_.width());
    }
  }

  void reset(T* row) {
    row_ = row;
    scale_.clear();
    rows_.clear();
    order_.clear();
  }

 private:
  struct OrderTerm {
    T slope;
    const T *x, *y;
  };

  void add(T slope, const T* row) {
    if (slope == T(0)) return;  // an inactive anchor
    scale_.push_back(slope);
    rows_.push_back(row);
  }

  const Backward<T>& b_;
  T* row_;
  std::vector<T> scale_;
  std::vector<const T*> rows_;
  std::vector<OrderTerm> order_;
};

// Turns the gradient by a unit row into the gradient by the row that was normalised; 0 for a zero row.
template <class T>
void through_normalisation(const Rows<T>& rows, int64_t i, T* grad) {
  if (rows.norm.empty()) return;
  const T* unit = rows.row(i);
  const T along = dot(unit, grad, rows.width), norm = rows.norm[i];
  for (int64_t d = 0; d < rows.width; ++d) grad[d] = norm == T(0) ? T(0) : (grad[d] - along * unit[d]) / norm;
}

template <class T>
void gather_image(const Backward<T>& b, const Choosers& choosers, int64_t i, RowGradient<T>& sum) {
  const T *x = b.image.row(i), *y = b.text.row(i);
  sum.by_image(b.slope(kBySelf, i), x, y);
  if (b.text_index[i] >= 0) sum.by_image(b.slope(kByText, i), x, b.text.row(b.text_index[i]));
  if (b.hard_text.rows) sum.by_image(b.slope(kByHardText, i), x, b.hard_text.at(i, b.text_choice(i)));
  for (int64_t n = choosers.start[i]; n < choosers.start[i + 1]; ++n) {
    const int64_t anchor = choosers.anchor[n];
    sum.by_image(b.slope(kByImage, anchor), x, b.text.row(anchor));
  }
}

template <class T>
void gather_text(const Backward<T>& b, const Choosers& choosers, int64_t i, RowGradient<T>& sum) {
  const T *x = b.image.row(i), *y = b.text.row(i);
  sum.by_text(b.slope(kBySelf, i), x, y);
  if (b.image_index[i] >= 0) sum.by_text(b.slope(kByImage, i), b.image.row(b.image_index[i]), y);
  if (b.hard_image.rows) sum.by_text(b.slope(kByHardImage, i), b.hard_image.at(i, b.image_choice(i)), y);
  for (int64_t n = choosers.start[i]; n < choosers.start[i + 1]; ++n) {
    const int64_t anchor = choosers.anchor[n];
    sum.by_text(b.slope(kByText, anchor), b.image.row(anchor), y);
  }
}

// Adds collect(r, sum) to the rows first + r of a gradient, in parallel.
template <class T, class Collect>
void accumulate_rows(const Backward<T>& b, const Rows<T>& grad, int64_t first, int64_t rows, Collect collect) {
  torch::stable::parallel_for(0, rows, 1, [&](int64_t begin, int64_t end) {
    RowGradient<T> sum(b, nullptr);
    for (int64_t r = begin; r < end; ++r) {
      sum.reset(grad.row(first + r));
      sum.start_from_row();
      collect(r, sum);
      sum.write();
    }
  });
}

// Online::kAll: image_grad and text_grad receive the part of every active negative.
template <class T>
void add_all_negatives(const Backward<T>& b, const AllNegatives<T>& all, int64_t needs, Rows<T>& image_grad,
                       Rows<T>& text_grad) {
  EmbeddingScores<T> scores(b.image, b.text, b.similarity);
  if (b.margin == T(0)) scores.resolve_ties_with(b.saved + kPositive * b.count());
  for_each_score_tile(scores, [&](const ScoreTile<T>& tile) {
    torch::stable::parallel_for(0, tile.rows, 1, [&](int64_t begin, int64_t end) {  // S becomes ∂loss/∂S in place
      for (int64_t r = begin; r < end; ++r) {
        all.row(tile.first_row + r, tile.first_column, tile.columns, tile.row(r), tile.row(r));
      }
    });
    if (b.similarity != Similarity::kOrder) {
      Tensor slopes = cpu_view(tile.scores, tile.rows, tile.columns, kScalarType<T>);
      const auto rows = [&](Tensor all_rows) { return torch::stable::narrow(all_rows, 0, tile.first_row, tile.rows); };
      const auto columns = [&](Tensor all_rows) {
        return torch::stable::narrow(all_rows, 0, tile.first_column, tile.columns);
      };
      if (needs & kImage) addmm_(rows(image_grad.tensor), slopes, columns(b.text.tensor));
      if (needs & kText) {
        addmm_(columns(text_grad.tensor), torch::stable::transpose(slopes, 0, 1), rows(b.image.tensor));
      }
      return;
    }
    if (needs & kImage)
      accumulate_rows(b, image_grad, tile.first_row, tile.rows, [&](int64_t r, RowGradient<T>& sum) {
        const T* x = b.image.row(tile.first_row + r);
        for (int64_t c = 0; c < tile.columns; ++c) sum.by_image(tile.row(r)[c], x, b.text.row(tile.first_column + c));
      });
    if (needs & kText)
      accumulate_rows(b, text_grad, tile.first_column, tile.columns, [&](int64_t c, RowGradient<T>& sum) {
        const T* y = b.text.row(tile.first_column + c);
        for (int64_t r = 0; r < tile.rows; ++r) sum.by_text(tile.row(r)[c], b.image.row(tile.first_row + r), y);
      });
  });
}

template <class T>
Rows<T> new_gradient(int64_t count, int64_t width, bool zero) {
  Tensor rows = empty_cpu({count, width}, kScalarType<T>);
  return view_rows<T>(zero ? torch::stable::zero_(rows) : rows);
}

// The gradients by image and text.
template <class T>
void pair_gradients(const Backward<T>& b, const std::optional<Tensor>& group_ids, int64_t needs, Tensor& image,
                    Tensor& text) {
  const int64_t count = b.count();
  const bool all = b.online == Online::kAll;
  Rows<T> by_image = new_gradient<T>(needs & kImage ? count : 0, b.width(), all);
  Rows<T> by_text = new_gradient<T>(needs & kText ? count : 0, b.width(), all);
  if (all) {
    const AllNegatives<T> negatives(b.saved, b.grad, load_groups<T>(group_ids, count), b.margin);
    add_all_negatives(b, negatives, needs, by_image, by_text);
  }
  const auto gather_rows = [&](const Rows<T>& out, const Rows<T>& operand, const int64_t* chosen, auto gather) {
    const Choosers choosers(chosen, count);
    torch::stable::parallel_for(0, count, kRowGrain, [&](int64_t begin, int64_t end) {
      RowGradient<T> sum(b, nullptr);
      for (int64_t i = begin; i < end; ++i) {
        sum.reset(out.row(i));
        if (all) sum.start_from_row();
        gather(b, choosers, i, sum);
        sum.write();
        through_normalisation(operand, i, out.row(i));
      }
    });
    return out.tensor;
  };
  if (needs & kImage) image = gather_rows(by_image, b.image, b.image_index, gather_image<T>);
  if (needs & kText) text = gather_rows(by_text, b.text, b.text_index, gather_text<T>);
}

// The gradient by one offline operand: row `chosen(i)` of anchor i is what collect(i, sum) says, the others are 0.
template <class T, class Chosen, class Collect>
Tensor offline_gradient(const Backward<T>& b, const Candidates<T>& operand, Chosen chosen, Collect collect) {
  const Rows<T>& rows = *operand.rows;
  const Rows<T> out = new_gradient<T>(rows.count, rows.width, operand.per_anchor > 1);
  torch::stable::parallel_for(0, b.count(), kRowGrain, [&](int64_t begin, int64_t end) {
    RowGradient<T> sum(b, nullptr);
    for (int64_t i = begin; i < end; ++i) {
      const int64_t r = i * operand.per_anchor + chosen(i);
      sum.reset(out.row(r));
      collect(i, sum);
      sum.write();
      through_normalisation(rows, r, out.row(r));
    }
  });
  return out.tensor;
}

template <class T>
void offline_gradients(const Backward<T>& b, int64_t needs, std::array<Tensor*, 4> grads) {
  const auto text_choice = [&](int64_t i) { return b.text_choice(i); };
  const auto image_choice = [&](int64_t i) { return b.image_choice(i); };
  const auto hard_text = [&](int64_t i) { return b.hard_text.at(i, text_choice(i)); };
  const auto hard_image = [&](int64_t i) { return b.hard_image.at(i, image_choice(i)); };
  const auto hard_text_image = [&](int64_t i) { return b.hard_text_image.at(i, text_choice(i)); };
  const auto hard_image_text = [&](int64_t i) { return b.hard_image_text.at(i, image_choice(i)); };
  const bool pairs = b.hard_text_image.rows.has_value();
  if (needs & kHardImage) {
    *grads[0] = offline_gradient(b, b.hard_image, image_choice, [&](int64_t i, RowGradient<T>& sum) {
      sum.by_image(b.slope(kByHardImage, i), hard_image(i), b.text.row(i));
      if (pairs) sum.by_image(b.slope(kByHardPair, i), hard_image(i), hard_text(i));
    });
  }
  if (needs & kHardText) {
    *grads[1] = offline_gradient(b, b.hard_text, text_choice, [&](int64_t i, RowGradient<T>& sum) {
      sum.by_text(b.slope(kByHardText, i), b.image.row(i), hard_text(i));
      if (pairs) sum.by_text(b.slope(kByHardPair, i), hard_image(i), hard_text(i));
    });
  }
  if (needs & kHardTextImage) {
    *grads[2] = offline_gradient(b, b.hard_text_image, text_choice, [&](int64_t i, RowGradient<T>& sum) {
      sum.by_image(b.slope(kByPartner, i), hard_text_image(i), hard_image_text(i));
    });
  }
  if (needs & kHardImageText) {
    *grads[3] = offline_gradient(b, b.hard_image_text, image_choice, [&](int64_t i, RowGradient<T>& sum) {
      sum.by_text(b.slope(kByPartner, i), hard_text_image(i), hard_image_text(i));
    });
  }
}

void check_choice(const int64_t* choice, int64_t count, int64_t text_candidates, int64_t image_candidates) {
  for (int64_t i = 0; i < count; ++i) {
    const int64_t text = choice[i], image = choice[count + i];
    STD_TORCH_CHECK(text >= 0 && text < text_candidates && image >= 0 && image < image_candidates,
                    "choice is out of range");
  }
}

using Gradients = std::tuple<Tensor, Tensor, Tensor, Tensor, Tensor, Tensor>;

Gradients quintuplet_backward(Tensor grad_loss, Tensor image, Tensor text, std::optional<Tensor> hard_image,
                              std::optional<Tensor> hard_text, std::optional<Tensor> hard_text_image,
                              std::optional<Tensor> hard_image_text, std::optional<Tensor> group_ids, Tensor text_index,
                              Tensor image_index, Tensor choice, Tensor saved, double margin_online, int64_t objective,
                              int64_t online, int64_t similarity, int64_t reduction, int64_t needs) {
  const Objective rung = check_enum(objective, Objective::kAdaptiveQuintuplet, "objective");
  const Similarity kind = check_enum(similarity, Similarity::kOrder, "similarity");
  check_embeddings(image, text, hard_image, hard_text, hard_text_image, hard_image_text, rung);
  const int64_t count = image.size(0);
  const bool offline = rung >= Objective::kOfflineTriplet, pairs = rung >= Objective::kOfflineQuintuplet;
  const int64_t available =
      kImage | kText | (offline ? kHardImage | kHardText : 0) | (pairs ? kHardTextImage | kHardImageText : 0);
  needs &= available;

  std::array<Tensor, 6> grads;  // an empty one for each that is not needed
  for (Tensor& grad : grads) grad = empty_cpu({0}, image.scalar_type());
  dispatch_compute_type(image, [&](auto zero) {
    using T = decltype(zero);
    Backward<T> b{load_rows<T>(image, kind),
                  load_rows<T>(text, kind),
                  load_candidates<T>(hard_image, offline, kind),
                  load_candidates<T>(hard_text, offline, kind),
                  load_candidates<T>(hard_text_image, pairs, kind),
                  load_candidates<T>(hard_image_text, pairs, kind),
                  checked_indices(text_index, count, count, "text_index"),
                  checked_indices(image_index, count, count, "image_index"),
                  checked_indices(choice, 2 * count, std::numeric_limits<int64_t>::max(), "choice"),
                  checked_saved<T>(saved, count),
                  anchor_grads<T>(grad_loss, check_enum(reduction, Reduction::kNone, "reduction"), count),
                  check_enum(online, Online::kAll, "online"),
                  kind,
                  T(margin_online)};
    check_choice(b.choice, count, b.hard_text.per_anchor, b.hard_image.per_anchor);
    if (needs & (kImage | kText)) pair_gradients(b, group_ids, needs, grads[0], grads[1]);
    offline_gradients(b, needs, {&grads[2], &grads[3], &grads[4], &grads[5]});
  });

  const std::array<const std::optional<Tensor>*, 4> offline_inputs{&hard_image, &hard_text, &hard_text_image,
                                                                   &hard_image_text};
  for (int64_t g = 0; g < 6; ++g) {
    if (!(needs & (int64_t{1} << g))) continue;
    const bool candidates = g >= 2 && (*offline_inputs[g - 2])->dim() == 3;
    if (candidates) grads[g] = torch::stable::view(grads[g], (*offline_inputs[g - 2])->sizes());
    if (grads[g].scalar_type() != image.scalar_type()) grads[g] = torch::stable::to(grads[g], image.scalar_type());
  }
  return {grads[0], grads[1], grads[2], grads[3], grads[4], grads[5]};
}

}  // namespace
}  // namespace aoq::cpu

STABLE_TORCH_LIBRARY_IMPL(aoq, CPU, m) { m.impl("quintuplet_backward", TORCH_BOX(&aoq::cpu::quintuplet_backward)); }
