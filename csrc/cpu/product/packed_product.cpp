#include "cpu/product/packed_product.h"

#include <algorithm>
#include <cstring>

#if defined(__x86_64__) && defined(__GNUC__) && !defined(__clang__)
#pragma GCC diagnostic push
#pragma GCC diagnostic ignored "-Wuninitialized"  // what g++ 12 says of its own header
#include <immintrin.h>
#pragma GCC diagnostic pop
// The compiler never uses the bfloat16 instructions unasked, so that kFloat runs without them.
#define AOQ_VECTORS __attribute__((target("avx512f,avx512bw,avx512vl,avx512bf16")))
#endif

namespace aoq::cpu {

// Short sums round less: so many words are summed before they are added to the rest.
constexpr int64_t kDepth = 256;

int64_t packed_additions(Word word, int64_t words) {
  const int64_t terms = word == Word::kBfloat16Pair ? 2 : 1;  // of a word, added one after the other at the worst
  return terms * std::min(words, kDepth) + (words + kDepth - 1) / kDepth;
}

#if defined(AOQ_VECTORS)

namespace {

constexpr int64_t kLanes = 16;

__mmask16 first_lanes(int64_t count) { return __mmask16((1u << std::clamp<int64_t>(count, 0, kLanes)) - 1); }

// rows[i] becomes the i-th lanes of all.
AOQ_VECTORS void transpose(__m512i (&rows)[kLanes]) {
  __m512i pairs[kLanes];
#pragma GCC unroll 16
  for (int64_t i = 0; i < kLanes; i += 2) {
    pairs[i] = _mm512_unpacklo_epi32(rows[i], rows[i + 1]);
    pairs[i + 1] = _mm512_unpackhi_epi32(rows[i], rows[i + 1]);
  }
#pragma GCC unroll 16
  for (int64_t i = 0; i < kLanes; i += 4) {
    rows[i] = _mm512_unpacklo_epi64(pairs[i], pairs[i + 2]);
    rows[i + 1] = _mm512_unpackhi_epi64(pairs[i], pairs[i + 2]);
    rows[i + 2] = _mm512_unpacklo_epi64(pairs[i + 1], pairs[i + 3]);
    rows[i + 3] = _mm512_unpackhi_epi64(pairs[i + 1], pairs[i + 3]);
  }
  // Quarters now: 0x88 takes the even ones of both, 0xdd the odd ones.
#pragma GCC unroll 16
  for (int64_t i = 0; i < 4; ++i) {
    pairs[i] = _mm512_shuffle_i32x4(rows[i], rows[4 + i], 0x88);
    pairs[4 + i] = _mm512_shuffle_i32x4(rows[i], rows[4 + i], 0xdd);
    pairs[8 + i] = _mm512_shuffle_i32x4(rows[8 + i], rows[12 + i], 0x88);
    pairs[12 + i] = _mm512_shuffle_i32x4(rows[8 + i], rows[12 + i], 0xdd);
  }
#pragma GCC unroll 16
  for (int64_t i = 0; i < 8; ++i) {
    rows[i] = _mm512_shuffle_i32x4(pairs[i], pairs[8 + i], 0x88);
    rows[8 + i] = _mm512_shuffle_i32x4(pairs[i], pairs[8 + i], 0xdd);
  }
}

// One panel, from `filled` rows.
template <int64_t kPanel>
AOQ_VECTORS void pack_rows(const char* rows, int64_t filled, int64_t words, uint32_t* out) {
  const int64_t stride = words * sizeof(uint32_t);
  for (int64_t w = 0; w < words; w += kLanes) {
    const __mmask16 line = first_lanes(words - w);
#pragma GCC unroll 2
    for (int64_t first = 0; first < kPanel; first += kLanes) {
      __m512i lines[kLanes];
#pragma GCC unroll 16
      for (int64_t r = 0; r < kLanes; ++r) {
        const bool exists = first + r < std::min(kPanel, filled);
        lines[r] = exists ? _mm512_maskz_loadu_epi32(line, rows + (first + r) * stride + w * sizeof(uint32_t))
                          : _mm512_setzero_si512();
      }
      transpose(lines);
      const __mmask16 lanes = first_lanes(kPanel - first);
#pragma GCC unroll 16
      for (int64_t k = 0; k < kLanes; ++k) {
        if (w + k < words) _mm512_mask_storeu_epi32(out + (w + k) * kPanel + first, lanes, lines[k]);
      }
    }
  }
}

struct Block {
  const uint32_t *images, *texts;  // panels, from word 0
  int64_t words;
  float* out;  // (rows, columns)
  int64_t stride, rows, columns;

  __mmask16 lanes(int64_t first) const { return first_lanes(columns - first); }
};

// One image panel against one text panel, all sums in registers.
template <Word kWord>
AOQ_VECTORS void product_of_panels(const Block& b) {
  const __mmask16 left_lanes = b.lanes(0), right_lanes = b.lanes(kLanes);
  for (int64_t r = 0; r < b.rows; ++r) {
    __builtin_prefetch(b.out + r * b.stride, 1);
    __builtin_prefetch(b.out + r * b.stride + kLanes, 1);
  }
  for (int64_t first = 0; first == 0 || first < b.words; first += kDepth) {
    __m512 sums[kImagePanel][2];
#pragma GCC unroll 16
    for (int64_t r = 0; r < kImagePanel; ++r) sums[r][0] = sums[r][1] = _mm512_setzero_ps();
    for (int64_t w = first; w < std::min(b.words, first + kDepth); ++w) {
      const __m512i left = _mm512_loadu_si512(b.texts + w * kTextPanel);
      const __m512i right = _mm512_loadu_si512(b.texts + w * kTextPanel + kLanes);
#pragma GCC unroll 16
      for (int64_t r = 0; r < kImagePanel; ++r) {
        const __m512i image = _mm512_set1_epi32(int(b.images[w * kImagePanel + r]));
        if constexpr (kWord == Word::kFloat) {
          sums[r][0] = _mm512_fmadd_ps(_mm512_castsi512_ps(image), _mm512_castsi512_ps(left), sums[r][0]);
          sums[r][1] = _mm512_fmadd_ps(_mm512_castsi512_ps(image), _mm512_castsi512_ps(right), sums[r][1]);
        } else {
          sums[r][0] = _mm512_dpbf16_ps(sums[r][0], __m512bh(image), __m512bh(left));
          sums[r][1] = _mm512_dpbf16_ps(sums[r][1], __m512bh(image), __m512bh(right));
        }
      }
    }
#pragma GCC unroll 16
    for (int64_t r = 0; r < kImagePanel; ++r) {
      if (r >= b.rows) break;
      float* out = b.out + r * b.stride;
      const __mmask16 before = first > 0 ? 0xffff : 0;  // lanes that hold a sum already
      const __m512 left = _mm512_maskz_loadu_ps(left_lanes & before, out);
      const __m512 right = _mm512_maskz_loadu_ps(right_lanes & before, out + kLanes);
      _mm512_mask_storeu_ps(out, left_lanes, _mm512_add_ps(left, sums[r][0]));
      _mm512_mask_storeu_ps(out + kLanes, right_lanes, _mm512_add_ps(right, sums[r][1]));
    }
  }
}

}  // namespace

template <int64_t kPanel>
void PackedRows<kPanel>::pack(const void* rows, int64_t count, int64_t words) {
  const int64_t panels = (count + kPanel - 1) / kPanel;
  size_ = words * kPanel;
  if (!words_.defined() || words_.numel() < panels * size_) words_ = empty_cpu({panels * size_}, ScalarType::Int);
  auto* packed = static_cast<uint32_t*>(words_.mutable_data_ptr());
  torch::stable::parallel_for(0, panels, 1, [&](int64_t begin, int64_t end) {
    for (int64_t p = begin; p < end; ++p) {
      const char* const from = static_cast<const char*>(rows) + p * size_ * sizeof(uint32_t);
      pack_rows<kPanel>(from, std::min(kPanel, count - p * kPanel), words, packed + p * size_);
    }
  });
}

bool has_packed_product(Word word) {
  const bool vectors =
      __builtin_cpu_supports("avx512f") && __builtin_cpu_supports("avx512bw") && __builtin_cpu_supports("avx512vl");
  return vectors && (word == Word::kFloat || __builtin_cpu_supports("avx512bf16"));
}

void packed_product(Word word, const PackedImages& images, const PackedTexts& texts, int64_t rows, int64_t first_column,
                    int64_t columns, int64_t words, float* scores, int64_t stride) {
  for (int64_t column = 0; column < columns; column += kTextPanel) {
    for (int64_t row = 0; row < rows; row += kImagePanel) {
      const Block block{images.panel(row / kImagePanel),
                        texts.panel((first_column + column) / kTextPanel),
                        words,
                        scores + row * stride + column,
                        stride,
                        std::min(kImagePanel, rows - row),
                        columns - column};
      word == Word::kFloat ? product_of_panels<Word::kFloat>(block) : product_of_panels<Word::kBfloat16Pair>(block);
    }
  }
}

#else

template <int64_t kPanel>
void PackedRows<kPanel>::pack(const void*, int64_t, int64_t) {}

bool has_packed_product(Word) { return false; }
void packed_product(Word, const PackedImages&, const PackedTexts&, int64_t, int64_t, int64_t, int64_t, float*,
                    int64_t) {}

#endif

template class PackedRows<kImagePanel>;
template class PackedRows<kTextPanel>;

}  // namespace aoq::cpu
