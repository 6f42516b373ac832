// Many kinds of passes, packed by two SIMD targets, and their blocks. Arrays are exactly as long as kernels may read:
// columns are padded to whole vectors.
#pragma once

#include <algorithm>
#include <functional>
#include <string>
#include <vector>

#include "support/check.h"
#include "support/names.h"
#include "support/packed_batch.h"
#include "support/simd_targets.h"

namespace hardmine::test {

inline constexpr int64_t kLine = 32;  // rows of a filled block are padded to multiples of this

// A pass as a target packs it: inner products of unit rows, or squared distances of unscaled rows.
template <class T>
struct LevelPass {
  PackedBatch<T> rows, columns;
  cpu::PairwiseParams<T> pass;

  LevelPass(const Kernels<T>& kernel, const Batch<T>& row_batch, const Batch<T>* column_batch, bool euclidean)
      : rows(kernel, row_batch, euclidean ? nullptr : norms(kernel, row_batch).data()),
        columns(kernel, column_batch ? *column_batch : row_batch,
                euclidean ? nullptr : norms(kernel, column_batch ? *column_batch : row_batch).data()) {
    pass = {rows.view(), column_batch ? columns.view() : rows.view(), row_batch.depth, !column_batch, euclidean, false};
  }
  static std::vector<T> norms(const Kernels<T>& kernel, const Batch<T>& batch) {
    std::vector<T> norm(batch.count);
    kernel.row_norms(batch.x.data(), batch.count, batch.depth, norm.data());
    return norm;
  }
};

// The input of one comparison.
template <class T>
struct Case {
  const Kernels<T>&scalar, &simd;
  const cpu::PairwiseParams<T>&scalar_pass, &simd_pass;
  std::vector<cpu::Block> blocks;  // that may hold pairs
  Random random;

  const cpu::PairwiseParams<T>& pass_of(const Kernels<T>& kernel) const {
    return &kernel == &scalar ? scalar_pass : simd_pass;
  }
  int64_t rows() const { return scalar_pass.rows.count; }
  int64_t columns() const { return scalar_pass.columns.count; }
  // One number per column, padded to whole vectors or block rows.
  std::vector<T> numbers(int64_t count, int64_t step, double low, double high) {
    std::vector<T> out(round_up_to(count, step));
    for (T& value : out) value = T(low + (high - low) * random.unit());
    return out;
  }
};

template <class T>
void for_each_case(const std::function<void(Case<T>&)>& body) {
  for_each_target<T>([&](const BuiltTarget& target, const Kernels<T>& scalar, const Kernels<T>& simd) {
    for (const int64_t depth : {3, 257}) {
      for (const int64_t count : {1, 31, 97, 193}) {
        for (const Labels labels : {Labels::kRandom, Labels::kOneClass, Labels::kAllDistinct}) {
          for (const auto& [symmetric, euclidean] : all_flags<2>()) {
            if (depth > 200 && (count != 97 || labels != Labels::kRandom)) continue;
            if (count > 100 && labels == (symmetric ? Labels::kAllDistinct : Labels::kOneClass)) continue;
            context = target.name + ", count " + std::to_string(count) + ", depth " + std::to_string(depth) +
                      ", labels " + name_of(labels) + text_of({{"symmetric", symmetric}, {"euclidean", euclidean}});
            Random random(depth + count);
            const Batch<T> rows(Values::kReals, labels, count, depth, random);
            const Batch<T> columns(Values::kReals, labels, count + 16, depth, random);
            const LevelPass<T> a(scalar, rows, symmetric ? nullptr : &columns, euclidean);
            const LevelPass<T> b(simd, rows, symmetric ? nullptr : &columns, euclidean);
            Case<T> one{scalar, simd, a.pass, b.pass, {}, random};
            for (int64_t row = 0; row < one.rows(); row += cpu::kMaxBlockRows)
              for (int64_t column = 0; column < one.columns(); column += cpu::kMaxBlockColumns)
                one.blocks.push_back({row, std::min(row + cpu::kMaxBlockRows, one.rows()), column,
                                      std::min(column + cpu::kMaxBlockColumns, one.columns())});
            body(one);
          }
        }
      }
    }
  });
}

// A filled block: rows are kMaxBlockColumns apart, and the buffer ends with the last row.
template <class T>
std::vector<T> filled(const Case<T>& c, const Kernels<T>& kernel, cpu::PairKind kind, const cpu::Block& block) {
  std::vector<T> numbers((block.rows() - 1) * cpu::kMaxBlockColumns + round_up_to(block.columns(), kLine), T(7));
  kernel.fill_block(c.pass_of(kernel), kind, block, numbers.data());
  return numbers;
}

// The block as the scalar target fills it, with room for the weights of `kernel` in whole groups of rows.
template <class T>
std::vector<T> filled_for_weights(const Case<T>& c, const Kernels<T>& kernel, cpu::PairKind kind,
                                  const cpu::Block& block) {
  std::vector<T> numbers = filled(c, c.scalar, kind, block);
  const int64_t lines = round_up_to(block.rows(), kernel.micro_tile_rows);
  const int64_t width =
      std::max(round_up_to(block.columns(), kLine), round_up_to(block.columns(), kernel.micro_tile_rows));
  numbers.resize((lines - 1) * cpu::kMaxBlockColumns + width, T(7));
  numbers.shrink_to_fit();
  return numbers;
}

// The weights of a block. Checks for zeros where the gradient product reads beyond the block.
template <class T>
std::vector<T> inside(const Kernels<T>& kernel, const cpu::Block& block, const std::vector<T>& numbers) {
  std::vector<T> cells;
  bool zeros = true;
  for (int64_t i = 0; i < round_up_to(block.rows(), kernel.micro_tile_rows); ++i) {
    for (int64_t k = 0; k < round_up_to(block.columns(), kernel.micro_tile_rows); ++k) {
      const T weight = numbers[i * cpu::kMaxBlockColumns + k];
      if (i < block.rows() && k < block.columns()) {
        cells.push_back(weight);
      } else {
        zeros &= weight == T(0);
      }
    }
  }
  CHECK(zeros);
  return cells;
}

}  // namespace hardmine::test
