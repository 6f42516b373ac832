// The names of enumerators, for the contexts that failures print.
#pragma once

#include <string>

#include "core/losses/batch_all.h"
#include "core/losses/loss_reduction.h"
#include "core/losses/tuplet_terms.h"
#include "core/selection.h"
#include "core/similarity.h"
#include "support/samples.h"

namespace hardmine::test {

template <class Enum, size_t N>
std::string name_in(const char* const (&names)[N], Enum value) {
  return names[static_cast<size_t>(value)];
}

inline std::string name_of(Values values) { return name_in({"integers", "exact norms", "reals"}, values); }
inline std::string name_of(Labels labels) {
  return name_in({"random", "sorted pairs", "descending", "one class", "all distinct", "extreme"}, labels);
}
inline std::string name_of(Similarity similarity) {
  return name_in({"cosine", "dot", "euclidean", "hyperbolic"}, similarity);
}
inline std::string name_of(Positive positive) { return name_in({"easiest", "hardest", "random"}, positive); }
inline std::string name_of(Negative negative) {
  return name_in({"hardest", "easiest", "semihard", "random"}, negative);
}
inline std::string name_of(Fallback fallback) { return name_in({"none", "hardest", "easiest"}, fallback); }
inline std::string name_of(TupletPositive positive) { return name_in({"easiest", "hardest", "all"}, positive); }
inline std::string name_of(Reduction reduction) { return name_in({"mean", "sum", "none"}, reduction); }
inline std::string name_of(BatchAllReduction reduction) { return name_in({"mean", "mean_active", "sum"}, reduction); }
inline std::string name_of(PairQuantity quantity) {
  return name_in({"inner product", "negative distance", "negative squared distance", "negative hyperbolic distance"},
                 quantity);
}
inline std::string text_of(const PairMeasure& measure) {
  return name_of(measure.quantity) + (measure.normalized ? " of unit rows" : "");
}

}  // namespace hardmine::test
