// Parameters of the operators as plain structs, free of torch, for every kernel. The enums mirror aoq_ext/_options.py.
#pragma once

#include <cstddef>
#include <cstdint>

namespace aoq {

enum class Objective : int64_t {
  kOnlineTriplet = 0,
  kOfflineTriplet = 1,
  kOfflineQuintuplet = 2,
  kAdaptiveQuintuplet = 3
};
enum class Online : int64_t { kHardest = 0, kSemihard = 1, kAll = 2 };
enum class Similarity : int64_t { kDot = 0, kCosine = 1, kOrder = 2 };
enum class Reduction : int64_t { kSum = 0, kMean = 1, kNone = 2 };

struct LossParams {
  double margin_online;
  double margin_offline;
  double alpha;
  double beta;
  Objective objective;
  Online online;
  Similarity similarity;
  Reduction reduction;
  bool detach_weight;
  bool clamp_weight;
  bool allow_tf32;  // torch's setting, which C++ cannot read

  static constexpr size_t kNumbers = 4, kCodes = 7;

  // From the lists in which operators are given them, as aoq_ext/_options.py makes them.
  static constexpr LossParams of_lists(const double* number, const int64_t* code) {
    return {.margin_online = *number++,
            .margin_offline = *number++,
            .alpha = *number++,
            .beta = *number++,
            .objective = Objective(*code++),
            .online = Online(*code++),
            .similarity = Similarity(*code++),
            .reduction = Reduction(*code++),
            .detach_weight = *code++ != 0,
            .clamp_weight = *code++ != 0,
            .allow_tf32 = *code++ != 0};
  }

  constexpr bool has_offline() const { return objective >= Objective::kOfflineTriplet; }
  constexpr bool has_pairs() const { return objective >= Objective::kOfflineQuintuplet; }
};

// What the loss of embeddings is a function of, in the order of the gradients and of their bits in `needs`.
enum Gradient : int { kImageRow, kTextRow, kHardImage, kHardText, kHardTextImage, kHardImageText, kGradients };

constexpr bool is_needed(int64_t needs, int gradient) { return needs >> gradient & 1; }

// What forward saves for each anchor: the positive's score, and the derivatives of L_i by the scores it depends on.
// For Online::kAll, kTextWeight and kImageWeight are the derivatives by every active negative of the anchor.
enum SavedRow : int64_t {
  kPositive,     // p_i itself
  kBySelf,       // ∂L_i/∂p_i
  kByText,       // ∂L_i/∂n_i
  kByImage,      // ∂L_i/∂m_i
  kByHardText,   // ∂L_i/∂a_i
  kByHardImage,  // ∂L_i/∂b_i
  kByHardPair,   // ∂L_i/∂c_i
  kByPartner,    // ∂L_i/∂d_i
  kTextWeight,
  kImageWeight,
  kSavedRows,
};

}  // namespace aoq
