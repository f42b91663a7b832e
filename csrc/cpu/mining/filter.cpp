#include "cpu/mining/filter.h"

#include <algorithm>

#include "cpu/product/simd.h"

#if defined(__x86_64__)
#include <immintrin.h>
#if defined(__GNUC__) && !defined(__clang__)
#pragma GCC diagnostic ignored "-Wmaybe-uninitialized"  // false alarms inside GCC 12's own intrinsics
#endif
#endif

namespace aoq::cpu {

namespace {

constexpr int64_t kChunk = 16, kWord = 64;

// Branch-free, so that the cost of a chunk with a hit does not depend on where the hits are.
AOQ_INLINE int64_t filter_some(const ScoreRow& row, int64_t begin, int64_t end, TopKKey* out) {
  int64_t kept = 0;
  for (int64_t j = begin; j < end; ++j) {
    const bool own = row.candidate_ids != nullptr && row.candidate_ids[j] == row.anchor_id;
    out[kept] = top_k_key(row.scores[j], row.first_index + static_cast<uint32_t>(j));
    kept += (row.scores[j] >= row.threshold) & (row.scores[j] <= row.upper) & !own;
  }
  return kept;
}

AOQ_SIMD int64_t filter_portable(const ScoreRow& row, TopKKey* out) {
  int64_t kept = 0, j = 0;
  for (; j + kChunk <= row.count; j += kChunk) {
    int hit = 0;
    for (int64_t lane = 0; lane < kChunk; ++lane) {
      hit |= (row.scores[j + lane] >= row.threshold) & (row.scores[j + lane] <= row.upper);
    }
    if (hit != 0) kept += filter_some(row, j, j + kChunk, out + kept);
  }
  return kept + filter_some(row, j, row.count, out + kept);
}

int64_t filter_columns_portable(const ColumnView& view, uint32_t first_column, uint32_t* hit_columns,
                                float* hit_scores) {
  int64_t kept = 0;
  for (int64_t j = 0; j < view.count; ++j) {
    hit_columns[kept] = first_column + static_cast<uint32_t>(j);
    hit_scores[kept] = view.scores[j];
    kept += (view.scores[j] + view.error >= view.floors[j]) & (view.scores[j] <= view.uppers[j]);
  }
  return kept;
}

#if defined(__x86_64__)

// Sixteen scores that contain a hit: make the keys in two registers and store those that passed side by side.
__attribute__((target("avx512f"), always_inline)) inline int64_t store_hits(const ScoreRow& row, int64_t j,
                                                                            __mmask16 hits, TopKKey* out) {
  if (row.candidate_ids != nullptr) {
    const __m512i own = _mm512_set1_epi64(row.anchor_id);
    const __mmask8 low = _mm512_cmpneq_epi64_mask(_mm512_loadu_si512(row.candidate_ids + j), own);
    const __mmask8 high = _mm512_cmpneq_epi64_mask(_mm512_loadu_si512(row.candidate_ids + j + 8), own);
    hits &= static_cast<__mmask16>(low | (high << 8));
  }
  const __m512i bits = _mm512_castps_si512(_mm512_add_ps(_mm512_loadu_ps(row.scores + j), _mm512_setzero_ps()));
  const __m512i magnitude = _mm512_set1_epi32(0x7FFFFFFF);
  const __m512i order = _mm512_xor_si512(bits, _mm512_and_si512(_mm512_srai_epi32(bits, 31), magnitude));
  const __m512i lane = _mm512_setr_epi32(0, 1, 2, 3, 4, 5, 6, 7, 8, 9, 10, 11, 12, 13, 14, 15);
  const __m512i index = _mm512_add_epi32(lane, _mm512_set1_epi32(static_cast<int>(row.first_index + j)));
  const __m512i complement = _mm512_xor_si512(index, _mm512_set1_epi32(-1));
  int64_t kept = 0;
  for (int half = 0; half < 2; ++half) {
    const __m256i upper = half == 0 ? _mm512_castsi512_si256(order) : _mm512_extracti64x4_epi64(order, 1);
    const __m256i lower = half == 0 ? _mm512_castsi512_si256(complement) : _mm512_extracti64x4_epi64(complement, 1);
    const __m512i keys =
        _mm512_or_si512(_mm512_slli_epi64(_mm512_cvtepu32_epi64(upper), 32), _mm512_cvtepu32_epi64(lower));
    const __mmask8 passed = static_cast<__mmask8>(hits >> (8 * half));
    _mm512_storeu_si512(out + kept, _mm512_maskz_compress_epi64(passed, keys));
    kept += __builtin_popcount(passed);
  }
  return kept;
}

// Which of 64 scores pass, a bit each.
__attribute__((target("avx512f"), always_inline)) inline uint64_t hits_of_word(const float* scores, __m512 threshold,
                                                                               __m512 upper) {
  uint64_t hits = 0;
  for (int64_t c = 0; c < kWord / kChunk; ++c) {
    const __m512 values = _mm512_loadu_ps(scores + c * kChunk);
    const __mmask16 reached = _mm512_cmp_ps_mask(values, threshold, _CMP_GE_OQ);
    hits |= static_cast<uint64_t>(_mm512_mask_cmp_ps_mask(reached, values, upper, _CMP_LE_OQ)) << (c * kChunk);
  }
  return hits;
}

__attribute__((target("avx512f"))) int64_t filter_avx512(const ScoreRow& row, TopKKey* out) {
  const __m512 threshold = _mm512_set1_ps(row.threshold), upper = _mm512_set1_ps(row.upper);
  int64_t kept = 0, j = 0;
  for (; j + kWord <= row.count; j += kWord) {
    for (uint64_t hits = hits_of_word(row.scores + j, threshold, upper); hits != 0;) {
      const int64_t chunk = __builtin_ctzll(hits) / kChunk * kChunk;
      kept += store_hits(row, j + chunk, static_cast<__mmask16>(hits >> chunk), out + kept);
      hits &= ~(uint64_t(0xFFFF) << chunk);
    }
  }
  return kept + filter_some(row, j, row.count, out + kept);
}

__attribute__((target("avx512f"))) int64_t filter_columns_avx512(const ColumnView& view, uint32_t first_column,
                                                                 uint32_t* hit_columns, float* hit_scores) {
  const __m512 error = _mm512_set1_ps(view.error);
  const __m512i lane = _mm512_setr_epi32(0, 1, 2, 3, 4, 5, 6, 7, 8, 9, 10, 11, 12, 13, 14, 15);
  int64_t kept = 0;
  for (int64_t j = 0; j < view.count; j += kChunk) {
    const __mmask16 exists = view.count - j >= kChunk ? 0xffff : static_cast<__mmask16>((1u << (view.count - j)) - 1);
    const __m512 scores = _mm512_maskz_loadu_ps(exists, view.scores + j);
    const __m512 floors = _mm512_maskz_loadu_ps(exists, view.floors + j);
    const __mmask16 reached = _mm512_mask_cmp_ps_mask(exists, _mm512_add_ps(scores, error), floors, _CMP_GE_OQ);
    if (reached == 0) continue;
    const __m512 uppers = _mm512_maskz_loadu_ps(reached, view.uppers + j);
    const __mmask16 hits = _mm512_mask_cmp_ps_mask(reached, scores, uppers, _CMP_LE_OQ);
    const __m512i columns = _mm512_add_epi32(lane, _mm512_set1_epi32(static_cast<int>(first_column + j)));
    _mm512_storeu_si512(hit_columns + kept, _mm512_maskz_compress_epi32(hits, columns));
    _mm512_storeu_ps(hit_scores + kept, _mm512_maskz_compress_ps(hits, scores));
    kept += __builtin_popcount(hits);
  }
  return kept;
}

#endif

bool has_avx512() {
#if defined(__x86_64__)
  static const bool has = __builtin_cpu_supports("avx512f");
  return has;
#else
  return false;
#endif
}

}  // namespace

#if !defined(__x86_64__)
namespace {
const auto filter_avx512 = filter_portable;
const auto filter_columns_avx512 = filter_columns_portable;
}  // namespace
#endif

int64_t filter_row(const ScoreRow& row, TopKKey* out) {
  return has_avx512() ? filter_avx512(row, out) : filter_portable(row, out);
}

int64_t filter_columns(const ColumnView& view, uint32_t first_column, uint32_t* hit_columns, float* hit_scores) {
  return has_avx512() ? filter_columns_avx512(view, first_column, hit_columns, hit_scores)
                      : filter_columns_portable(view, first_column, hit_columns, hit_scores);
}

}  // namespace aoq::cpu
