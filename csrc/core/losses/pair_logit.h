// What is in the exponent of a log-sum-exp in place of the similarity s of a pair.
#pragma once

#include "core/host_device.h"

namespace hardmine {

// In the order of LOGITS in hardmine/ops/_soft.py.
enum class LogitKind { kSimilarity, kDissimilarity, kCircle };

// The logit x of a similarity s, with the signed similarity d = s, or d = -s for dissimilarities and for positives of
// the circle loss:
//   kSimilarity, kDissimilarity: x = d
//   kCircle: x = [u + m]_+ (u - m), u = d for negatives and d + 1 for positives. Source: Sun et al., "Circle Loss",
//   CVPR
//     2020, equations 5 and 6 with O_p = 1 + m, O_n = -m, Delta_p = 1 - m and Delta_n = m. The weight [u + m]_+ is held
//     constant in derivatives.
template <class T>
struct PairLogit {
  bool is_similarity = true, is_circle = false;
  T sign = 1, center = 0, margin = 0;

  static PairLogit of(LogitKind logit, bool positives, double margin) {
    PairLogit out;
    out.is_similarity = logit == LogitKind::kSimilarity;
    out.is_circle = logit == LogitKind::kCircle;
    const bool circle_positives = out.is_circle && positives;
    if (circle_positives || logit == LogitKind::kDissimilarity) out.sign = T(-1);
    out.center = T(circle_positives);
    out.margin = static_cast<T>(margin);
    return out;
  }
  HARDMINE_HD T signed_similarity(T s) const { return sign * s; }
  HARDMINE_HD T weight(T s) const {
    const T u = signed_similarity(s) + center + margin;
    return u > T(0) ? u : T(0);
  }
  HARDMINE_HD T value(T s) const {
    const T d = signed_similarity(s);
    return is_circle ? weight(s) * (d + center - margin) : d;
  }
  HARDMINE_HD T slope(T s) const { return is_circle ? sign * weight(s) : sign; }
};

}  // namespace hardmine
