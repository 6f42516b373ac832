// With y the other row of a pair and w the gradient that arrives at its similarity, the pair adds to the gradient of
// row x
//   dot:        w y
//   cosine:     (w / |y|) y, before the projection through x / |x| (see `project`)
//   euclidean:  (w / d) (y - x), d = |y - x|, and nothing at d = 0, where PyTorch's norm takes 0 as its subgradient.
// The three are symmetric in x and y, so an anchor's own pairs and those that selected it are summed alike.

#include "pair_gradient.h"

#include <memory>
#include <vector>

#include "rows.h"

namespace hardmine::cpu {
namespace {

// For every row, the anchors that selected it, ascending; an anchor's positive before its negative.
struct IncomingPairs {
  std::vector<int64_t> begin;     // [rows + 1]
  std::vector<int64_t> anchor;    // [pairs]
  std::vector<uint8_t> negative;  // [pairs]

  template <class T>
  IncomingPairs(int64_t rows, int64_t anchors, const PairGradients<T>& positive_pairs,
                const PairGradients<T>& negative_pairs)
      : begin(rows + 1, 0) {
    const auto for_each = [&](const auto& use) {
      for (int64_t i = 0; i < anchors; ++i) {
        if (positive_pairs.index[i] >= 0 && positive_pairs.gradient[i] != T(0))
          use(i, positive_pairs.index[i], uint8_t{0});
        if (negative_pairs.index[i] >= 0 && negative_pairs.gradient[i] != T(0))
          use(i, negative_pairs.index[i], uint8_t{1});
      }
    };
    for_each([&](int64_t, int64_t row, uint8_t) { ++begin[row + 1]; });
    for (int64_t r = 0; r < rows; ++r) begin[r + 1] += begin[r];
    anchor.resize(begin[rows]);
    negative.resize(begin[rows]);
    std::vector<int64_t> next(begin.begin(), begin.end() - 1);
    for_each([&](int64_t i, int64_t row, uint8_t is_negative) {
      anchor[next[row]] = i;
      negative[next[row]++] = is_negative;
    });
  }
};

}  // namespace

template <class T>
bool all_finite(const T* x, int64_t count, int64_t depth, const Workers& workers) {
  return Norms<T>(x, count, depth, workers).finite;
}

template <class T>
void pair_gradient(Similarity similarity, const T* x, int64_t count, const T* refs, int64_t ref_count, int64_t depth,
                   const PairGradients<T>& positive, const PairGradients<T>& negative, const Workers& workers,
                   T* grad_x, T* grad_refs) {
  const Kernels<T>& kernel = kernels<T>();
  const bool cosine = similarity == Similarity::kCosine, euclidean = similarity == Similarity::kEuclidean;
  const T* other = refs ? refs : x;
  const std::unique_ptr<Norms<T>> norms = cosine ? std::make_unique<Norms<T>>(x, count, depth, workers) : nullptr;
  const std::unique_ptr<Norms<T>> ref_norms =
      cosine && refs ? std::make_unique<Norms<T>>(refs, ref_count, depth, workers) : nullptr;
  const T* x_norm = cosine ? norms->norm.get() : nullptr;
  const T* other_norm = refs && cosine ? ref_norms->norm.get() : x_norm;

  const auto add_pair = [&](T* acc, T weight, const T* self, const T* y, const T* y_norm) {
    if (euclidean) {
      const T d = kernel.distance(self, y, depth);
      if (d != T(0)) kernel.add_scaled_difference(acc, weight / d, y, self, depth);
    } else {
      kernel.add_scaled(acc, cosine ? weight / *y_norm : weight, y, depth);
    }
  };
  // `own`: the row's pairs as an anchor; `incoming`: the pairs of anchors that selected it.
  const auto gather = [&](const T* rows, const T* norm, int64_t row_count, bool own, const IncomingPairs* incoming,
                          T* grad) {
    const int64_t threads =
        workers_for(workers, 4.0 * static_cast<double>(row_count) * static_cast<double>(depth), kElementGrain);
    parallel_range(workers, threads, row_count, 1, [&](int64_t begin, int64_t end) {
      for (int64_t r = begin; r < end; ++r) {
        T* acc = grad + r * depth;
        const T* self = rows + r * depth;
        std::fill_n(acc, depth, T(0));
        bool any = false;
        if (own) {
          for (const PairGradients<T>* pairs : {&positive, &negative}) {
            const int64_t y = pairs->index[r];
            if (y < 0 || pairs->gradient[r] == T(0)) continue;
            any = true;
            add_pair(acc, pairs->gradient[r], self, other + y * depth, cosine ? other_norm + y : nullptr);
          }
        }
        if (incoming) {
          for (int64_t p = incoming->begin[r]; p < incoming->begin[r + 1]; ++p) {
            const int64_t y = incoming->anchor[p];
            any = true;
            add_pair(acc, (incoming->negative[p] ? negative : positive).gradient[y], self, x + y * depth,
                     cosine ? x_norm + y : nullptr);
          }
        }
        // A row without pairs has gradient 0, even if it is not finite.
        if (!cosine || !any) continue;
        // Below the smallest norm, normalize divides by a constant: there is no projection.
        const bool clamped = norm[r] <= Norms<T>::kSmallestNorm;
        kernel.project(acc, self, norm[r], clamped ? T(0) : kernel.dot(acc, self, depth) / norm[r], depth);
      }
    });
  };

  if (!refs) {
    if (!grad_x) return;
    const IncomingPairs incoming(count, count, positive, negative);
    gather(x, x_norm, count, true, &incoming, grad_x);
    return;
  }
  if (grad_x) gather(x, x_norm, count, true, nullptr, grad_x);
  if (grad_refs) {
    const IncomingPairs incoming(ref_count, count, positive, negative);
    gather(refs, other_norm, ref_count, false, &incoming, grad_refs);
  }
}

template bool all_finite(const float*, int64_t, int64_t, const Workers&);
template bool all_finite(const double*, int64_t, int64_t, const Workers&);
template void pair_gradient(Similarity, const float*, int64_t, const float*, int64_t, int64_t,
                            const PairGradients<float>&, const PairGradients<float>&, const Workers&, float*, float*);
template void pair_gradient(Similarity, const double*, int64_t, const double*, int64_t, int64_t,
                            const PairGradients<double>&, const PairGradients<double>&, const Workers&, double*,
                            double*);

}  // namespace hardmine::cpu
