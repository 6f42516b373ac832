// Names of options, as they stand in the ops' schemas, to the enums of core.
#pragma once

#include <array>
#include <stdexcept>
#include <string>
#include <string_view>
#include <utility>

#include "loss_reduction.h"
#include "selection.h"

namespace hardmine {

template <class Enum, size_t N>
Enum parse_option(const char* argument, std::string_view name,
                  const std::array<std::pair<std::string_view, Enum>, N>& options) {
  for (const auto& [option, value] : options)
    if (option == name) return value;
  std::string message(argument);
  message.append(" must be one of ");
  for (const auto& [option, value] : options) message.append("'").append(option).append("', ");
  throw std::invalid_argument(message.append("got '").append(name).append("'"));
}

template <class Enum, size_t N>
using Options = std::array<std::pair<std::string_view, Enum>, N>;

inline Similarity parse_similarity(std::string_view name) {
  return parse_option(
      "similarity", name,
      Options<Similarity, 3>{
          {{"cosine", Similarity::kCosine}, {"dot", Similarity::kDot}, {"euclidean", Similarity::kEuclidean}}});
}
inline Positive parse_positive(std::string_view name) {
  return parse_option("positive", name,
                      Options<Positive, 2>{{{"easiest", Positive::kEasiest}, {"hardest", Positive::kHardest}}});
}
inline Negative parse_negative(std::string_view name) {
  return parse_option(
      "negative", name,
      Options<Negative, 3>{
          {{"hardest", Negative::kHardest}, {"easiest", Negative::kEasiest}, {"semihard", Negative::kSemihard}}});
}
inline Fallback parse_fallback(std::string_view name) {
  return parse_option(
      "semihard_fallback", name,
      Options<Fallback, 3>{
          {{"none", Fallback::kNone}, {"hardest", Fallback::kHardest}, {"easiest", Fallback::kEasiest}}});
}
inline bool parse_tie(std::string_view name) {
  return parse_option("tie", name, Options<bool, 2>{{{"exclude", false}, {"include", true}}});
}
inline Term parse_term(std::string_view name) {
  return parse_option(
      "term", name,
      Options<Term, 4>{
          {{"nca", Term::kNca}, {"hinge", Term::kHinge}, {"soft_margin", Term::kSoftMargin}, {"sct", Term::kSct}}});
}
inline HardRule parse_hard_rule(std::string_view name) {
  return parse_option("hard_rule", name,
                      Options<HardRule, 3>{{{"above", HardRule::kAbove},
                                            {"above_and_cutoff", HardRule::kAboveAndCutoff},
                                            {"above_or_cutoff", HardRule::kAboveOrCutoff}}});
}
inline Reduction parse_reduction(std::string_view name) {
  return parse_option(
      "reduction", name,
      Options<Reduction, 3>{{{"mean", Reduction::kMean}, {"sum", Reduction::kSum}, {"none", Reduction::kNone}}});
}

}  // namespace hardmine
