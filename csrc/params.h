// Parameters of the operators as plain structs, free of torch, for every kernel. The enums mirror aoq_ext/_options.py.
#pragma once

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

  constexpr bool has_offline() const { return objective >= Objective::kOfflineTriplet; }
  constexpr bool has_pairs() const { return objective >= Objective::kOfflineQuintuplet; }
};

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
