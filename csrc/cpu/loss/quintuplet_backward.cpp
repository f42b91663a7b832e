// Backward pass. With one negative an anchor the gradient is sparse: every row is a short sum, gathered in index order
// and written once. With all negatives the tiles of S are walked again and multiplied out.
#include <functional>
#include <tuple>

#include "cpu/loss/all_negatives.h"
#include "cpu/loss/anchor_scores.h"
#include "cpu/loss/backward_inputs.h"
#include "cpu/loss/score_tiles.h"

namespace aoq::cpu {
namespace {

// An anchor is a pair of the whole batch, C of them; its rows, `own`, are those of anchors first, …, first + B − 1.
template <class S>
struct Backward {
  using T = Compute<S>;

  Embeddings<S> own;
  Rows<S> all_image, all_text;              // (C, D), as far as needed; `own` where the batch is in one process
  int64_t anchors;                          // C
  int64_t first;                            // the anchor of row 0
  const int64_t *text_index, *image_index;  // (C,) hardest online negatives, −1 for none
  const int64_t* choice;                    // (2, B) candidates used, text then image
  const T* saved;                           // (kSavedRows, C)
  std::vector<T> grad;                      // (C,) ∂loss/∂L_i
  LossParams params;

  int64_t rows() const { return own.image.count; }
  int64_t width() const { return own.image.width; }
  T slope(SavedRow row, int64_t anchor) const { return grad[anchor] * saved[row * anchors + anchor]; }
  int64_t text_choice(int64_t i) const { return choice[i]; }
  int64_t image_choice(int64_t i) const { return choice[rows() + i]; }
  const S* used_hard_text(int64_t i) const { return own.hard_text.at(i, text_choice(i)); }
  const S* used_hard_image(int64_t i) const { return own.hard_image.at(i, image_choice(i)); }
};

// The gradient by one embedding row: a sum of slope · ∂sim/∂row, collected first and written once.
template <class S>
class RowGradient {
  using T = Compute<S>;

 public:
  explicit RowGradient(const Backward<S>& b) : b_(b) {}

  void begin(S* row) {
    row_ = row;
    scale_.clear();
    rows_.clear();
    order_.clear();
  }

  void start_from_row() { add(T(1), row_); }  // keep what the row holds already

  // The row is the image x of the pair.
  void by_image(T slope, const S* x, const S* y) {
    if (b_.params.similarity != Similarity::kOrder) return add(slope, y);
    if (slope != T(0)) order_.push_back({slope, x, y});
  }

  // The row is the text y of the pair.
  void by_text(T slope, const S* x, const S* y) {
    if (b_.params.similarity != Similarity::kOrder) return add(slope, x);
    if (slope != T(0)) order_.push_back({-slope, x, y});
  }

  void write() {
    weighted_sum(row_, scale_.data(), rows_.data(), int64_t(rows_.size()), b_.width());
    if constexpr (std::is_same_v<S, T>) {
      for (const OrderTerm& term : order_) {  // ∂sim/∂x = max(0, y − x) / ‖max(0, y − x)‖ = −∂sim/∂y
        const T distance = order_distance(term.x, term.y, b_.width());
        if (distance != T(0)) add_order(row_, term.slope / distance, term.x, term.y, b_.width());
      }
    }
  }

 private:
  struct OrderTerm {
    T slope;
    const S *x, *y;
  };

  void add(T slope, const S* row) {
    if (slope == T(0)) return;  // an inactive anchor
    scale_.push_back(slope);
    rows_.push_back(row);
  }

  const Backward<S>& b_;
  S* row_ = nullptr;
  std::vector<T> scale_;
  std::vector<const S*> rows_;
  std::vector<OrderTerm> order_;
};

// Turns the gradient by a unit row into the gradient by the row that was normalised; 0 for a zero row.
template <class S>
void through_normalisation(const Rows<S>& rows, int64_t i, S* grad) {
  if constexpr (std::is_same_v<S, Compute<S>>) {
    if (rows.norm.empty()) return;
    const S* unit = rows.row(i);
    const S along = dot(unit, grad, rows.width), norm = rows.norm[i];
    for (int64_t d = 0; d < rows.width; ++d) grad[d] = norm == S(0) ? S(0) : (grad[d] - along * unit[d]) / norm;
  }
}

// Adds collect(r, sum) to the rows first + r of a gradient, in parallel.
template <class S, class Collect>
void accumulate_rows(const Backward<S>& b, const Rows<S>& grad, int64_t first, int64_t rows, Collect collect) {
  torch::stable::parallel_for(0, rows, 1, [&](int64_t begin, int64_t end) {
    RowGradient<S> sum(b);
    for (int64_t r = begin; r < end; ++r) {
      sum.begin(grad.row(first + r));
      sum.start_from_row();
      collect(r, sum);
      sum.write();
    }
  });
}

// Online::kAll: image_grad (R, D) and text_grad (C, D), each if given, receive the part of every active negative in the
// rectangle of R images and C texts.
template <class T>
void add_all_negatives(const Backward<T>& b, const AllNegatives<T>& all, const Rows<T>& image, const Rows<T>& text,
                       AnchorOffsets first, const Rows<T>* image_grad, const Rows<T>* text_grad) {
  EmbeddingScores<T> scores(image, text, b.params.similarity, first);
  if (b.params.margin_online == T(0)) scores.resolve_ties_with(b.saved + kPositive * b.anchors);
  const Tile largest = scores.largest_tile();
  const Tensor buffer = empty_cpu({largest.rows * largest.columns}, kScalarType<T>);
  T* slopes = static_cast<T*>(buffer.mutable_data_ptr());
  for_each_tile(scores, [&](const Tile& tile) {
    const int64_t blocks = (tile.columns + kBlockColumns - 1) / kBlockColumns;
    torch::stable::parallel_for(0, blocks, 1, [&](int64_t begin, int64_t end) {
      for (int64_t column = begin * kBlockColumns; column < std::min(end * kBlockColumns, tile.columns);
           column += kBlockColumns) {
        const int64_t columns = std::min(kBlockColumns, tile.columns - column);
        const Scores<T> block = scores.columns(tile, column, columns, {slopes + column, tile.columns});
        for (int64_t r = 0; r < tile.rows; ++r) {
          all.row(first.row + tile.first_row + r, first.column + tile.first_column + column, columns,
                  block.data + r * block.stride, slopes + r * tile.columns + column);
        }
      }
    });
    const auto slope_row = [&](int64_t r) { return slopes + r * tile.columns; };
    if (b.params.similarity != Similarity::kOrder) {
      Tensor matrix = cpu_view(slopes, tile.rows, tile.columns, kScalarType<T>);
      const auto rows = [&](Tensor all_rows) { return torch::stable::narrow(all_rows, 0, tile.first_row, tile.rows); };
      const auto columns = [&](Tensor all_rows) {
        return torch::stable::narrow(all_rows, 0, tile.first_column, tile.columns);
      };
      if (image_grad) addmm_(rows(image_grad->tensor), matrix, columns(text.tensor));
      if (text_grad) addmm_(columns(text_grad->tensor), torch::stable::transpose(matrix, 0, 1), rows(image.tensor));
      return;
    }
    if (image_grad)
      accumulate_rows(b, *image_grad, tile.first_row, tile.rows, [&](int64_t r, RowGradient<T>& sum) {
        const T* x = image.row(tile.first_row + r);
        for (int64_t c = 0; c < tile.columns; ++c) sum.by_image(slope_row(r)[c], x, text.row(tile.first_column + c));
      });
    if (text_grad)
      accumulate_rows(b, *text_grad, tile.first_column, tile.columns, [&](int64_t c, RowGradient<T>& sum) {
        const T* y = text.row(tile.first_column + c);
        for (int64_t r = 0; r < tile.rows; ++r) sum.by_text(slope_row(r)[c], image.row(tile.first_row + r), y);
      });
  });
}

template <class S>
Rows<S> new_gradient(int64_t count, int64_t width, bool zero) {
  Tensor rows = empty_cpu({count, width}, kStorageType<S>);
  return view_rows<S>(zero ? torch::stable::zero_(rows) : rows);
}

// One gradient tensor: for anchor i, row row_of(i) is the sum that collect(i, sum) builds; rows of no anchor stay 0.
template <class S>
struct Output {
  int64_t position;  // among the operands
  Rows<S> rows;
  const Rows<S>* operand;
  bool keeps_row;  // the sum adds to what the row holds
  std::function<int64_t(int64_t)> row_of;
  std::function<void(int64_t, RowGradient<S>&)> collect;
};

// Row i of image, or of text, with what the anchors that chose it as their negative contribute, in index order.
template <class S>
void add_pair_outputs(const Backward<S>& b, const std::optional<Tensor>& group_ids, int64_t needs,
                      const Choosers& image_choosers, const Choosers& text_choosers, std::vector<Output<S>>& outputs) {
  using T = Compute<S>;
  const bool all = b.params.online == Online::kAll;
  const Rows<S> by_image = new_gradient<S>(is_needed(needs, kImageRow) ? b.rows() : 0, b.width(), all);
  const Rows<S> by_text = new_gradient<S>(is_needed(needs, kTextRow) ? b.rows() : 0, b.width(), all);
  const Rows<S>*image_grad = is_needed(needs, kImageRow) ? &by_image : nullptr,
        *text_grad = is_needed(needs, kTextRow) ? &by_text : nullptr;
  if constexpr (std::is_same_v<S, T>) {
    if (all && (image_grad || text_grad)) {
      const AllNegatives<T> negatives(b.saved, b.grad, load_groups<T>(group_ids, b.anchors), b.params.margin_online);
      if (b.rows() == b.anchors) {
        add_all_negatives<T>(b, negatives, b.own.image, b.own.text, {}, image_grad, text_grad);
      } else {
        if (image_grad) {
          add_all_negatives<T>(b, negatives, b.own.image, b.all_text, {.row = b.first}, image_grad, nullptr);
        }
        if (text_grad) {
          add_all_negatives<T>(b, negatives, b.all_image, b.own.text, {.column = b.first}, nullptr, text_grad);
        }
      }
    }
  }
  const auto itself = [](int64_t i) { return i; };
  if (image_grad) {
    outputs.push_back({0, by_image, &b.own.image, all, itself, [&](int64_t i, RowGradient<S>& sum) {
                         const S *x = b.own.image.row(i), *y = b.own.text.row(i);
                         const int64_t anchor = b.first + i, text = b.text_index[anchor];
                         sum.by_image(b.slope(kBySelf, anchor), x, y);
                         if (text >= 0) sum.by_image(b.slope(kByText, anchor), x, b.all_text.row(text));
                         if (b.own.hard_text.rows) {
                           sum.by_image(b.slope(kByHardText, anchor), x, b.used_hard_text(i));
                         }
                         image_choosers.for_each(i, [&](int64_t chooser) {
                           sum.by_image(b.slope(kByImage, chooser), x, b.all_text.row(chooser));
                         });
                       }});
  }
  if (text_grad) {
    outputs.push_back({1, by_text, &b.own.text, all, itself, [&](int64_t i, RowGradient<S>& sum) {
                         const S *x = b.own.image.row(i), *y = b.own.text.row(i);
                         const int64_t anchor = b.first + i, image = b.image_index[anchor];
                         sum.by_text(b.slope(kBySelf, anchor), x, y);
                         if (image >= 0) sum.by_text(b.slope(kByImage, anchor), b.all_image.row(image), y);
                         if (b.own.hard_image.rows) {
                           sum.by_text(b.slope(kByHardImage, anchor), b.used_hard_image(i), y);
                         }
                         text_choosers.for_each(i, [&](int64_t chooser) {
                           sum.by_text(b.slope(kByText, chooser), b.all_image.row(chooser), y);
                         });
                       }});
  }
}

template <class S>
void add_offline_outputs(const Backward<S>& b, int64_t needs, std::vector<Output<S>>& outputs) {
  const bool pairs = b.own.hard_text_image.rows.has_value();
  const auto add = [&](int64_t position, const Candidates<S>& operand, auto chosen, auto collect) {
    if (!is_needed(needs, int(position))) return;
    const Rows<S>& rows = *operand.rows;
    const auto row_of = [&operand, chosen](int64_t i) { return i * operand.per_anchor + chosen(i); };
    outputs.push_back(
        {position, new_gradient<S>(rows.count, rows.width, operand.per_anchor > 1), &rows, false, row_of, collect});
  };
  const auto text_choice = [&](int64_t i) { return b.text_choice(i); };
  const auto image_choice = [&](int64_t i) { return b.image_choice(i); };
  add(2, b.own.hard_image, image_choice, [&b, pairs](int64_t i, RowGradient<S>& sum) {
    sum.by_image(b.slope(kByHardImage, b.first + i), b.used_hard_image(i), b.own.text.row(i));
    if (pairs) sum.by_image(b.slope(kByHardPair, b.first + i), b.used_hard_image(i), b.used_hard_text(i));
  });
  add(3, b.own.hard_text, text_choice, [&b, pairs](int64_t i, RowGradient<S>& sum) {
    sum.by_text(b.slope(kByHardText, b.first + i), b.own.image.row(i), b.used_hard_text(i));
    if (pairs) sum.by_text(b.slope(kByHardPair, b.first + i), b.used_hard_image(i), b.used_hard_text(i));
  });
  add(4, b.own.hard_text_image, text_choice, [&b](int64_t i, RowGradient<S>& sum) {
    const S* y_hat = b.own.hard_image_text.at(i, b.image_choice(i));
    sum.by_image(b.slope(kByPartner, b.first + i), b.own.hard_text_image.at(i, b.text_choice(i)), y_hat);
  });
  add(5, b.own.hard_image_text, image_choice, [&b](int64_t i, RowGradient<S>& sum) {
    const S* x_hat = b.own.hard_text_image.at(i, b.text_choice(i));
    sum.by_text(b.slope(kByPartner, b.first + i), x_hat, b.own.hard_image_text.at(i, b.image_choice(i)));
  });
}

// Anchor by anchor, so that the rows of an anchor are read once for all gradients.
template <class S>
void write_outputs(const Backward<S>& b, const std::vector<Output<S>>& outputs) {
  torch::stable::parallel_for(0, b.rows(), kRowGrain, [&](int64_t begin, int64_t end) {
    RowGradient<S> sum(b);
    for (int64_t i = begin; i < end; ++i) {
      for (const Output<S>& output : outputs) {
        const int64_t r = output.row_of(i);
        prefetch_row(*output.operand, i + 1 < b.rows() ? output.row_of(i + 1) : b.rows());
        sum.begin(output.rows.row(r));
        if (output.keeps_row) sum.start_from_row();
        output.collect(i, sum);
        sum.write();
        through_normalisation(*output.operand, r, output.rows.row(r));
      }
    }
  });
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
                              Tensor image_index, Tensor choice, Tensor saved, Numbers numbers, Codes codes,
                              int64_t needs, std::optional<Tensor> all_image, std::optional<Tensor> all_text,
                              int64_t first) {
  const LossParams params = loss_params(numbers, codes);
  const Similarity kind = params.similarity;
  const EmbeddingOperands given =
      checked({image, text, hard_image, hard_text, hard_text_image, hard_image_text}, params.objective);
  const int64_t rows = image.size(0), anchors = text_index.size(0);
  needs = checked_needs(needs, given, all_image, all_text, first, anchors);

  std::array<Tensor, kGradients> grads;  // an empty one for each that is not needed
  for (Tensor& grad : grads) grad = empty_cpu({0}, image.scalar_type());
  dispatch_storage(image, kind == Similarity::kDot && params.online != Online::kAll, [&](auto zero) {
    using S = decltype(zero);
    using T = Compute<S>;
    Embeddings<S> own(given, kind);
    const Rows<S> images = all_image ? load_rows<S>(*all_image, kind) : own.image;
    const Rows<S> texts = all_text ? load_rows<S>(*all_text, kind) : own.text;
    Backward<S> b{std::move(own),
                  images,
                  texts,
                  anchors,
                  first,
                  checked_indices(text_index, anchors, anchors, "text_index"),
                  checked_indices(image_index, anchors, anchors, "image_index"),
                  checked_indices(choice, 2 * rows, std::numeric_limits<int64_t>::max(), "choice"),
                  checked_saved<T>(saved, anchors),
                  anchor_grads<T>(grad_loss, params.reduction, anchors),
                  params};
    check_choice(b.choice, rows, b.own.hard_text.per_anchor, b.own.hard_image.per_anchor);
    const Choosers image_choosers(b.image_index, anchors, first, rows),
        text_choosers(b.text_index, anchors, first, rows);
    std::vector<Output<S>> outputs;
    add_pair_outputs(b, group_ids, needs, image_choosers, text_choosers, outputs);
    add_offline_outputs(b, needs, outputs);
    write_outputs(b, outputs);
    for (const Output<S>& output : outputs) grads[output.position] = output.rows.tensor;
  });

  for (int g = 0; g < kGradients; ++g) {
    if (!is_needed(needs, g)) continue;
    if (given[g]->dim() == 3) grads[g] = torch::stable::view(grads[g], given[g]->sizes());
    if (grads[g].scalar_type() != image.scalar_type()) grads[g] = torch::stable::to(grads[g], image.scalar_type());
  }
  return {grads[0], grads[1], grads[2], grads[3], grads[4], grads[5]};
}

}  // namespace
}  // namespace aoq::cpu

STABLE_TORCH_LIBRARY_IMPL(aoq, CPU, m) { m.impl("quintuplet_backward", TORCH_BOX(&aoq::cpu::quintuplet_backward)); }
