"""Bugs to plant in the kernels, one at a time: mutate.py asks whether the tests notice.

Each is a plausible slip: a missing barrier, a wrong index, a lost tail, a tie or a NaN that goes the wrong way.
"""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True)
class Mutation:
    kind: str
    file: str  # below csrc
    text: str  # found there once
    replacement: str
    binding: str  # whose kernels contain it
    tests: str  # those of the binding that are tried first, as pytest -k takes them
    flavour: str = "plain"  # that these run in
    note: str = ""  # why it is expected to survive

    @property
    def name(self) -> str:
        first, last = self.text.strip().splitlines()[0], self.replacement.strip().splitlines()
        return f"{first} → {last[0] if last else '(nothing)'}"


def _of(binding: str, file: str, *rows: tuple[str, ...]) -> list[Mutation]:
    """Rows of kind, text, replacement, tests, and as far as needed flavour and note."""
    return [Mutation(kind, file, text, new, binding, *rest) for kind, text, new, *rest in rows]


FORWARD = [
    *_of(
        "forward",
        "cuda/tile/loader.cuh",
        ("lost tail", "remaining_ > 0 &&", "remaining_ >= 0 &&", "test_widths"),
        ("out of bounds", "exists = entry < operand.count", "exists = entry <= operand.count", "test_sizes", "asan"),
        (
            "wrong index",
            "entry * map.candidates + map.choice[entry]",
            "entry + map.choice[entry]",
            "test_candidates",
        ),
        ("wrong index", "entry / map.candidates : entry", "entry % map.candidates : entry", "test_candidates"),
        ("wrong fragment", "(piece() ^ swizzle<Config>(first_row()))", "piece()", "test_widths"),
        ("wrong index", "source_[i] += Config::kSliceBytes", "source_[i] += kPieceBytes", "test_widths"),
    ),
    *_of(
        "forward",
        "cuda/tile/mainloop.cuh",
        ("missing barrier", "sync_block();  // slice s", "// slice s", "test_widths and 393", "tsan"),
        (
            "missing barrier",
            "sync_block();  // the stages are free again",
            "",
            "test_a_chunk_of_several_tiles and 1",
            "tsan",
        ),
        ("race", "copy_async_wait<Config::kStages - 2>", "copy_async_wait<Config::kStages - 1>", "test_widths"),
        ("wrong index", "write = Config::kStages - 1;", "write = 0;", "test_widths"),
        ("wrong index", "read + 1 == Config::kStages ?", "read + 2 == Config::kStages ?", "test_widths"),
        (
            "lost tail",
            "(width * int64_t(sizeof(Element)) + Config::kSliceBytes - 1) /",
            "width * int64_t(sizeof(Element)) /",
            "test_widths",
        ),
    ),
    *_of(
        "forward",
        "cuda/tile/mma.cuh",
        (
            "wrong fragment",
            "columns[n][0] = pair[0], columns[n][1] = pair[1];",
            "columns[n][0] = pair[1], columns[n][1] = pair[0];",
            "test_tiles_find",
        ),
        ("wrong fragment", "left, m * 16 + lane % 16,", "left, lane % 16,", "test_tiles_find"),
        ("wrong fragment", "right, n * 8 + lane / 16 * 8 +", "right, n * 8 + lane / 8 * 8 % 16 +", "test_tiles_find"),
        ("wrong index", "lane_index() % 4 * 2 + j % 2;", "lane_index() % 4 + j % 2 * 4;", "test_tiles_find"),
        (
            "wrong index",
            "return scores_[i / 2][j / 2][i % 2 * 2 + j % 2]; }\n  AOQ_DEVICE float at",
            "return scores_[i / 2][j / 2][j % 2 * 2 + i % 2]; }\n  AOQ_DEVICE float at",
            "test_every_kind",
        ),
        (
            "wrong rounding",
            "word = to_tf32(std::bit_cast<float>(word))",
            "word = std::bit_cast<uint32_t>(std::bit_cast<float>(word))",
            "test_tf32",
        ),
        ("wrong fragment", "lane % 4 == row / 2)", "lane % 4 == row % 4)", "test_every_kind"),
        ("wrong fragment", "pair + lane / 16 * Config::kRows,", "pair,", "test_every_kind"),
    ),
    *_of(
        "forward",
        "cuda/tile/fma.cuh",
        ("wrong index", "+ i * 4 + lane_index() / 8;", "+ i * 4 + lane_index() % 4;", "test_tiles_find and float"),
        (
            "missing NaN rule",
            "gap <= T(0) ? T(0) : gap;  // NaN passes",
            "gap > T(0) ? gap : T(0);",
            "test_nan",
        ),
        ("wrong score", "store(thread_index(), Term::finish(score_))", "store(thread_index(), score_)", "order"),
    ),
    *_of(
        "forward",
        "cuda/tile/scores.cuh",
        (
            "wrong score",
            "score * scale_of(left, entry) * scale_of(right, entry)",
            "score * scale_of(left, entry)",
            "cosine",
        ),
        ("out of bounds", "if (entry < left.count) part.scores", "part.scores", "test_every_kind"),
        ("wrong launch", "while (block >= tiles_along", "while (block > tiles_along", "test_sizes"),
        ("wrong score", "* left_scale * right_scale[j]", "* left_scale", "test_a_zero_row"),
        ("wrong index", "operand.scale[row_of(operand.map, entry)]", "operand.scale[entry]", "test_candidates"),
    ),
    *_of(
        "forward",
        "cuda/tile/masks.cuh",
        ("wrong mask", "c - r == diagonal", "r - c == diagonal", "test_tiles_find"),
        ("wrong mask", "if (-diagonal < Config::kRows &&", "if (diagonal >= 0 &&", "test_tiles_find"),
        ("lost tail", "r >= rows || c >= columns", "r >= rows", "test_tiles_find"),
        ("lost tail", "if (rows < Config::kRows || columns", "if (rows < Config::kRows && columns", "test_tiles_find"),
        ("wrong mask", "const int64_t text_group =", "const int text_group =", "test_tiles_leave_out"),
        ("wrong index", "rules.group, rules.first + row, rows", "rules.group, row, rows", "test_tiles_leave_out"),
    ),
    *_of(
        "forward",
        "cuda/tile/hardest.cuh",
        (
            "wrong tie",
            "for (int j = Along::kPlaces - 1; j >= 0; --j)",
            "for (int j = 0; j < Along::kPlaces; ++j)",
            "test_tiles_find",
        ),
        ("wrong tie", "return a < b ? a : b;", "return a < b ? b : a;", "test_tiles_find"),
        ("wrong tie", "biased_key(best) >= to_reach[i]", "biased_key(best) > to_reach[i]", "test_tiles or schedules"),
        ("wrong mask", "value >= limit[i] ?", "value > limit[i] ?", "test_tiles_leave_out"),
        (
            "missing NaN rule",
            "best = max_or_nan(best, score(j));",
            "best = best < score(j) ? score(j) : best;",
            "test_nan",
        ),
        ("missing NaN rule", "value == best || value != value", "value == best", "test_nan"),
        ("wrong index", "uint32_t(to.first_place) + place)", "place)", "test_tiles_find"),
        ("wrong index", "rules.columns - column, anchor,", "rules.columns - column, row,", "test_tiles_find"),
        (
            "race",
            "atomic_max(to.key + Along::line(i), pack_key",
            "to.key[Along::line(i)] = (pack_key",
            "test_tiles_find",
        ),
    ),
    *_of(
        "forward",
        "cuda/device/packed_key.cuh",
        ("wrong order", "uint32_t(order_key(score)) ^ 0x80000000u", "uint32_t(order_key(score))", "test_sizes"),
        ("wrong tie", "return ~uint32_t(key);", "return uint32_t(key);", "test_sizes"),
    ),
    *_of(
        "forward",
        "cuda/device/last_block.cuh",
        ("missing fence", "thread_fence();\n    is_last", "is_last", "test_last_block", "tsan"),
        ("missing fence", "blocks - 1;\n    thread_fence();", "blocks - 1;", "test_last_block", "tsan"),
        (
            "missing barrier",
            "  sync_block();\n  if (thread_index() == 0) {\n    thread_fence",
            "  if (thread_index() == 0) {\n    thread_fence",
            "test_widths and 40",
            "tsan",
        ),
        ("wrong ticket", "== blocks - 1;", "== blocks / 2;", "test_last_block or test_sizes"),
        ("key not reset", "if (is_last) atomic_add(ticket, 0u - blocks);", "", "test_sizes"),
    ),
    *_of(
        "forward",
        "cuda/loss/finish.cuh",
        ("lost tail", "b < block_count(); b +=", "b + 1 < block_count(); b +=", "test_last_block"),
        ("wrong index", "p.out.choice[i] = p.out.choice[p.count + i] = 0", "p.out.choice[i] = 0", "test_every_kind"),
        (
            "wrong launch",
            "return p.count ? tiles_along(p.count, kThreads) : 1;",
            "return tiles_along(p.count, kThreads);",
            "test_sizes",
        ),
    ),
    *_of(
        "forward",
        "cuda/loss/online_negative.cuh",
        ("key not reset", "from.key[i] = kNoNegative;", "", "test_sizes"),
        ("wrong sum", "if (params.online == Online::kAll) return", "if (false) return", "test_sizes"),
    ),
    *_of(
        "forward",
        "cuda/device/warp.cuh",
        ("wrong index", "bit <= kLast; bit *= 2", "bit < kLast; bit *= 2", "test_sizes"),
        ("missing barrier", "  sync_block();\n  if (thread_index() != 0)", "  if (thread_index() != 0)", "test_sizes"),
    ),
    *_of(
        "forward",
        "cuda/tile/sums.cuh",
        ("wrong tie", "if (other > key) key", "if (other >= key) key", "test_a_chunk"),
        ("wrong tie", "other.index < index", "other.index > index", "test_a_chunk"),
        ("missing barrier", "    sync_block();\n    const int line", "    const int line", "test_a_chunk"),
        (
            "lost tail",
            "for (int warp = 1; warp < Along::kWarps",
            "for (int warp = 2; warp < Along::kWarps",
            "test_a_chunk",
        ),
        (
            "wrong mask",
            "Online::kSemihard && score >= positive",
            "Online::kSemihard && score > positive",
            "test_duplicates",
        ),
    ),
    *_of(
        "forward",
        "cuda/loss/forward/walk_pass.cuh",
        ("lost tail", "tile < tiles * (chunk + 1) / chunks", "tile < tiles / chunks * (chunk + 1)", "test_a_chunk"),
        (
            "wrong index",
            "rules.positive + line_anchor + first_line :",
            "rules.positive + line_anchor :",
            "test_a_chunk",
        ),
        (
            "wrong index",
            "const int64_t part = chunk * 2 * lines;",
            "const int64_t part = chunk * lines;",
            "test_a_chunk",
        ),
    ),
    *_of(
        "forward",
        "cuda/loss/forward/small_kernels.cuh",
        ("wrong tie", "if (other.key > sum.key)", "if (other.key >= sum.key)", "test_a_chunk"),
        ("wrong index", "const int64_t offset = c * 2 * count;", "const int64_t offset = c * count;", "test_a_chunk"),
        ("wrong tie", "if (key > best_key) chosen", "if (key >= best_key) chosen", "test_candidates"),
        ("zero row", "sum == T(0) ? T(0) : T(1) / std::sqrt(sum)", "T(1) / std::sqrt(sum)", "test_a_zero_row"),
        (
            "lost tail",
            "d < p.width; d += kWarpSize * kPieceSize<Element>",
            "d < p.width; d += p.width",
            "cosine",
        ),
    ),
    *_of(
        "forward",
        "cuda/tile/order.cuh",
        ("wrong launch", "tile_rows - first < kGroup ? tile_rows - first : kGroup", "kGroup", "test_sizes"),
        ("wrong index", "index / (kGroup * tile_columns) * kGroup", "index / (kGroup * tile_columns)", "test_middle"),
    ),
    *_of(
        "forward",
        "cuda/loss/forward/hardest_pass.cuh",
        ("wrong launch", "block - tile_rows * tile_columns);", "block);", "test_sizes"),
        ("missing barrier", "if (is_last_block(p.finish.ticket, shared)) finish", "finish", "test_sizes"),
    ),
    *_of(
        "forward",
        "cuda/loss/forward/forward_plan.h",
        ("missing rule", "if (loss.online != Online::kHardest) rules.positive = scores;", "", "test_duplicates"),
    ),
    *_of(
        "forward",
        "math/hinge.h",
        ("wrong tie", "value <= T(0) ? T(0) : T(1)", "value < T(0) ? T(0) : T(1)", "test_duplicates"),
        ("missing NaN rule", "value <= T(0) ? T(0) : value", "value > T(0) ? value : T(0)", "test_nan"),
    ),
]

BACKWARD = [
    *_of(
        "backward",
        "cuda/loss/backward/choosers.cuh",
        ("wrong index", "popcount(hits[map][n] & below)", "popcount(hits[map][n])", "test_gradients"),
        ("race", "tile += kTile, turn ^= 1", "tile += kTile", "test_hub and 12", "tsan"),
        ("out of bounds", "found[0] + total[0] > kCapacity", "found[0] > kCapacity", "test_hub and 12"),
        ("out of bounds", "anchor < range.to ?", "anchor <= range.to ?", "test_gradients", "asan"),
        ("wrong index", "chosen >= 0 && chosen < rows", "chosen >= 0 && chosen <= rows", "test_gradients"),
        ("wrong index", "< row + (other < e ? 1 : 0)", "< row + (other <= e ? 1 : 0)", "test_gradients"),
        ("missing barrier", "    sync_block();\n    return reached", "    return reached", "test_gradients"),
        ("wrong sum", "if (range.counts) continue;", "", "test_many_hubs"),
        ("wrong launch", "count[map][row] > kHub", "count[map][row] >= kHub", "test_hub_begins"),
        ("wrong slope", "/ slopes.divisor *", "*", "test_objectives"),
        ("wrong index", "slopes.grad[anchor * slopes.stride]", "slopes.grad[0]", "test_gradients"),
    ),
    *_of(
        "backward",
        "cuda/loss/backward/sparse_rows.cuh",
        ("wrong index", "maps, p.first + row, rows,", "maps, row, rows,", "test_rows_of_a_gathered"),
        (
            "wrong index",
            "Lists::kMaxRows ? end - row : Lists::kMaxRows",
            "Lists::kMaxRows ? end - row : end - row",
            "test_more_rows",
        ),
    ),
    *_of(
        "backward",
        "cuda/loss/backward/sparse_hubs.cuh",
        ("wrong index", "maps, p.first + row, 1,", "maps, row, 1,", "test_hub and 12"),
        ("lost tail", "for (int g = 1; g < groups; ++g)", "for (int g = 2; g < groups; ++g)", "test_hub and 12"),
        (
            "missing barrier",
            "shared.sum[thread_index()] = sum;\n        sync_block();",
            "shared.sum[thread_index()] = sum;",
            "test_hub and 12",
        ),
        (
            "lost tail",
            "to = p.slopes.anchors * (number + 1) / count",
            "to = p.slopes.anchors / count * (number + 1)",
            "test_many_hubs",
        ),
        ("wrong sum", "is_first ? value : *total + value", "value", "test_hub_whose_choosers"),
        ("wrong ticket", "&piece[-number].ticket", "&piece->ticket", "test_hub and 12"),
        ("wrong index", "piece->row, item - number, count", "piece->row, item, count", "test_hub and 12"),
    ),
    *_of(
        "backward",
        "cuda/loss/backward/sparse_block.cuh",
        ("candidates not zeroed", "k == chosen ? sum : Sum{}", "sum", "test_candidates"),
        (
            "wrong index",
            "grad == kHardText || grad == kHardTextImage;",
            "grad == kHardText || grad == kHardImageText;",
            "test_candidates",
        ),
        (
            "wrong sign",
            "add_order(sum, -scale, other[n], own)",
            "add_order(sum, scale, other[n], own)",
            "test_gradients",
        ),
        ("wrong index", "dense[row * p.width + column + v]", "dense[column + v]", "test_begins_with"),
        (
            "lost tail",
            "for (int e = listed.begin + warp_index(); e < listed.end;",
            "for (int e = listed.begin + warp_index(); e + 1 < listed.end;",
            "test_gradients",
        ),
        ("lost tail", "const bool exists = e < listed.end;", "const bool exists = n == 0;", "test_gradients"),
    ),
    *_of(
        "backward",
        "cuda/loss/backward/pair_terms.cuh",
        ("wrong derivative", "-along * inverse_x * inverse_x", "-along * inverse_x", "cosine or COSINE"),
        ("zero row", "return square == T(0) ? T(0) : T(1)", "return T(1)", "test_zero_rows"),
        ("wrong slope", "{kByHardPair, kHardX,", "{kByPartner, kHardX,", "test_gradients"),
        ("wrong index", "const int64_t anchor = p.first + i;", "const int64_t anchor = i;", "test_rows_of_a_gathered"),
        ("missing check", "index >= 0 && index < limit ?", "index >= 0 ?", "test_indices_out_of_range"),
        ("wrong index", "p.choice[p.rows + i]", "p.choice[i]", "test_candidates"),
        (
            "32-bit offset",
            "return rows.data + i * rows.stride",
            "return rows.data + int32_t(i * rows.stride)",
            "test_gradients",
            "plain",
            "more than 2³¹ elements of one operand do not fit a test; on a GPU, tests/numerics.py has them",
        ),
    ),
    *_of(
        "backward",
        "cuda/loss/backward/row_slice.cuh",
        (
            "missing NaN rule",
            "return difference <= T(0) ? T(0) : difference;",
            "return difference > T(0) ? difference : T(0);",
            "test_nan",
        ),
        ("lost tail", "if (column >= width) return;", "", "test_widths", "asan"),
    ),
    *_of(
        "backward",
        "cuda/device/element.cuh",
        ("wrong rounding", "(bits + 0x7fff + (bits >> 16 & 1)) >> 16", "bits >> 16", "test_gradients and bfloat16"),
    ),
    *_of(
        "backward",
        "cuda/loss/backward/all_slopes.cuh",
        ("wrong mask", "group ? group[anchor] : anchor", "group ? group[anchor] : 0", "test_all_negatives"),
        ("wrong tie", "margin + score - positive <= T(0)", "margin + score - positive < T(0)", "test_duplicates"),
    ),
    *_of(
        "backward",
        "cuda/loss/backward/all_negatives.cuh",
        ("wrong sign", "slope / -score", "slope / score", "test_all_negatives"),
        ("wrong index", "p.row_anchor + row", "row", "test_all_negatives"),
        ("lost tail", "if (row >= left.count) continue;", "", "test_all_negatives", "asan"),
    ),
    *_of(
        "backward",
        "cuda/loss/backward/backward_plan.h",
        (
            "wrong index",
            "fill(b.all_image, 0, text, b.first + row)",
            "fill(b.all_image, 0, text, row)",
            "test_all_negatives",
        ),
        ("wrong launch", "height >= rows && rows == anchors", "height >= rows", "test_all_negatives_of_a_gathered"),
        ("wrong index", "if (operand.scale) operand.scale += first;", "", "test_all_negatives_in_panels"),
    ),
]

SCORE = [
    *_of(
        "score",
        "cuda/loss/score/given_scores.cuh",
        ("out of bounds", "r < given.left.count && c <", "c <", "test_forward_objectives", "asan"),
        ("wrong index", "r * given.left.stride + c", "r * given.left.count + c", "test_online_negatives"),
    ),
    *_of(
        "score",
        "cuda/loss/score/score_forward.cuh",
        ("wrong index", "p.diagonal[i * (p.stride + 1)]", "p.diagonal[i * p.stride]", "test_forward_objectives"),
        (
            "wrong launch",
            "(block - tile_rows * tile_columns) * kThreads",
            "block * kThreads",
            "test_forward_objectives",
        ),
        (
            "wrong index",
            "block / tile_columns * Config::kRows",
            "block / tile_rows * Config::kRows",
            "test_online_negatives",
        ),
    ),
    *_of(
        "score",
        "cuda/loss/score/score_backward.cuh",
        (
            "wrong index",
            "p.image_index[anchor] - p.first - first_row",
            "p.image_index[anchor] - first_row",
            "test_backward_of_some_rows",
        ),
        ("wrong index", "kSlope[which], p.first + row)", "kSlope[which], row)", "test_backward_of_some_rows"),
        ("wrong index", "if (column + v == anchor)", "if (column + v == row)", "test_backward_of_some_rows"),
        ("out of bounds", "if (column >= columns) return;", "", "test_backward"),
        (
            "lost tail",
            "r < kRows && first_row + r < p.rows",
            "r < kRows && first_row + r + 1 < p.rows",
            "test_backward",
        ),
    ),
    *_of(
        "score",
        "cuda/loss/score/score_kernels.cu",
        ("wrong launch", "params.slopes.anchors % kPieceSize<Element> == 0 &&", "", "test_backward"),
    ),
    *_of(
        "score",
        "math/order.h",
        ("wrong tie", "score + T(0);  // −0 + 0 = +0", "score;", "test_forward"),
        ("missing NaN rule", "canonical != canonical ? kMagnitude : key", "key", "test_infinities"),
        ("−inf rule", "return key > order_key(-std", "return key >= order_key(-std", "test_infinities or negative"),
    ),
]

MINING = [
    *_of(
        "mining",
        "cuda/mining/hits.cuh",
        ("lost tail", " || column >= p.columns.lines.count) return;", ") return;", "test_sizes", "asan"),
        ("wrong index", "belong_together(p.row_identity, i, p", "belong_together(p.row_identity, row, p", "belong"),
        ("out of bounds", "if (slot < hits.capacity) hits.keys", "hits.keys", "test_ties_by_the_hundred", "asan"),
        (
            "wrong index",
            "append_hit(p.columns, column, hit.score, i);",
            "append_hit(p.columns, column, hit.score, row);",
            "test_blocks",
        ),
        (
            "wrong index",
            "queue_hits<kHalf, kHalf>(scores, queue);",
            "queue_hits<0, kHalf>(scores, queue);",
            "test_sizes",
        ),
        (
            "missing barrier",
            "  queue_hits<0, kHalf>(scores, queue);\n  sync_block();",
            "  queue_hits<0, kHalf>(scores, queue);",
            "test_sizes and 33",
            "tsan",
        ),
    ),
    *_of(
        "mining",
        "cuda/mining/exact_score.cuh",
        (
            "wrong order",
            "int half = kLanes / 2; half > 0; half /= 2",
            "int half = 1; half < kLanes; half *= 2",
            "order_of_the_sum",
        ),
        (
            "wrong order",
            "int half = kSize / 2; half > 0; half /= 2",
            "int half = kSize / 2; half > 3; half /= 2",
            "test_sizes",
        ),
    ),
    *_of(
        "mining",
        "cuda/mining/block_select.cuh",
        (
            "wrong tie",
            "while (before + shared.bins[digit] < remaining)",
            "while (before + shared.bins[digit] <= remaining)",
            "test_depths",
        ),
        ("wrong order", "((first & size) == 0)", "((first & stride) == 0)", "test_depths"),
        (
            "missing barrier",
            "sync_block();  // every key of this stretch has been read",
            "",
            "test_sizes and 33",
            "tsan",
        ),
        (
            "wrong index",
            "keys[kept + before + popcount(votes & below)]",
            "keys[kept + popcount(votes & below)]",
            "test_ties_by",
        ),
        ("lost tail", "(below < 64 && word >> below != found)", "false", "test_depths"),
    ),
    *_of(
        "mining",
        "cuda/mining/merge.cuh",
        (
            "missing rule",
            "if (found > p.hits.capacity && thread_index() == 0) p.line.lists.failed[i] = 1;",
            "",
            "test_ties_by",
        ),
        ("wrong bound", "- 2 * error));", "));", "test_ties_by or cut_sums"),
        ("wrong bound", "float_below(double(cap) - error)", "cap", "test_caps"),
        ("wrong tie", "score > cap ? kNoTopKKey", "score >= cap ? kNoTopKKey", "test_caps"),
        ("wrong index", "uint32_t(p.place.first + j)", "uint32_t(j)", "test_sizes"),
        (
            "wrong index",
            "p.place.rows + j * p.place.stride",
            "p.place.rows + j * p.width",
            "test_rows_with_gaps",
        ),
        ("wrong tie", "if (word(e) > last) sorted", "if (word(e) >= last) sorted", "test_sizes", "asan"),
    ),
    *_of(
        "mining",
        "cuda/mining/small_kernels.cuh",
        (
            "wrong bound",
            "float_below(double(top_k_score(reached)) - error)",
            "top_k_score(reached)",
            "any_order or thousands or cut",
        ),
        ("wrong bound", "float_above(double(p.lists.caps[i]) + error)", "p.lists.caps[i]", "test_caps"),
        ("missing rule", "complete = last != kNoTopKKey && top_k_score(last) >= beyond;", "", "too_high"),
        (
            "wrong bound",
            "bound{std::sqrt(square), std::sqrt(off)}",
            "bound{std::sqrt(square), 0}",
            "test_ties_by or test_caps",
        ),
    ),
    *_of(
        "mining",
        "cuda/mining/mining_plan.h",
        ("missing rule", "line.lists.guess = nullptr;", "", "too_high"),
        ("key not reset", "launch_restore({line.lists, failed}, stream);", "", "test_ties_by"),
        (
            "lost tail",
            "tiles_along(anchors.count - block, m.choice.blocks)",
            "tiles_along(anchors.count, m.choice.blocks)",
            "test_blocks",
            "asan",
        ),
        (
            "wrong score",
            "multiplies_plainly ? kFloatUnit : kTensorUnit",
            "multiplies_plainly ? kFloatUnit : 0x1p-40",
            "cut_sums",
        ),
    ),
    *_of(
        "mining",
        "math/identity.h",
        ("wrong mask", "a < x.offsets[i + 1] && b", "a + 1 < x.offsets[i + 1] && b", "belong"),
    ),
]

MUTATIONS = [*FORWARD, *BACKWARD, *SCORE, *MINING]
