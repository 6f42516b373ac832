// Shared by the wrappers of all CPU ops: torch's threads as a ThreadPool, and inputs as contiguous arrays.
#pragma once

#include <chrono>

#include "core/similarity.h"
#include "cpu/engine/select_triplets.h"
#include "cpu/ops/python_signals.h"
#include "op_arguments.h"

namespace hardmine::cpu {

// The threads of one engine call. Ctrl-C cancels it: the calling thread looks for signals a few times per second.
class TorchThreadPool : public ThreadPool {
 public:
  bool cancelled() const override {
    if (cancelled_.load(std::memory_order_relaxed)) return true;
    if (std::this_thread::get_id() != caller_) return false;
    const Clock::time_point now = Clock::now();
    if (next_look_ == Clock::time_point()) next_look_ = now + kBetweenLooks;
    if (now < next_look_) return false;
    if (python_signal_raised()) cancelled_.store(true, std::memory_order_relaxed);
    next_look_ = Clock::now() + kBetweenLooks;
    return cancelled_.load(std::memory_order_relaxed);
  }
  int64_t count() const override { return static_cast<int64_t>(torch::stable::get_num_threads()); }
  void run(int64_t workers, const std::function<void(int64_t)>& body) const override {
    torch::stable::parallel_for(0, workers, 1, [&](int64_t begin, int64_t end) {
      for (int64_t worker = begin; worker < end; ++worker) body(worker);
    });
  }

 private:
  using Clock = std::chrono::steady_clock;
  static constexpr std::chrono::milliseconds kBetweenLooks{100};

  const std::thread::id caller_ = std::this_thread::get_id();
  mutable Clock::time_point next_look_;  // used by the calling thread alone
  mutable std::atomic<bool> cancelled_{false};
};

// Checks that all elements of an int64 tensor lie in [min, rows). Returns the tensor, contiguous.
inline Tensor checked_indices(const char* name, const Tensor& t, int64_t min, int64_t rows) {
  check(t.is_cpu() && t.scalar_type() == ScalarType::Long, std::string(name) + " must be an int64 CPU tensor");
  const Tensor indices = contiguous_array(t);
  const int64_t* index = data<int64_t>(indices);
  const int64_t count = indices.numel();
  for (int64_t i = 0; i < count; ++i) {
    if (index[i] >= min && index[i] < rows) continue;
    check(false, std::string(name) + " must lie in [" + std::to_string(min) + ", " + std::to_string(rows) + "), got " +
                     std::to_string(index[i]));
  }
  return indices;
}

// Calls body.operator()<T>() with the C++ type of a compute type.
template <class Body>
auto dispatch(ScalarType type, const Body& body) {
  return type == ScalarType::Double ? body.template operator()<double>() : body.template operator()<float>();
}

// The checked inputs of an op on labeled embeddings, as contiguous arrays.
struct SelectionInputs {
  Tensor embeddings, labels;
  std::optional<Tensor> ref_embeddings, ref_labels;
  ScalarType type;

  SelectionInputs(const Tensor& x, const Tensor& y, const std::optional<Tensor>& ref_x,
                  const std::optional<Tensor>& ref_y);

  template <class T>
  LabeledMatrix<T> anchors() const {
    return {data<T>(embeddings), data<int64_t>(labels), embeddings.size(0)};
  }
  template <class T>
  LabeledMatrix<T> refs() const {
    return {data<T>(*ref_embeddings), data<int64_t>(*ref_labels), ref_embeddings->size(0)};
  }
};

// The outputs of a selection, and whether all inputs are finite.
struct SelectionTensors {
  Tensor positive_index, negative_index, positive_similarity, negative_similarity;
  bool finite;
};
// `random`: see csrc/library.cpp.
SelectionTensors select_triplets_tensors(const SelectionRule& rule, const SelectionInputs& inputs,
                                         const std::optional<Tensor>& random);

// The members of a PairList as tensors.
struct PairTensors {
  std::optional<Tensor> left;  // [entries] int64; none: entry e is row e of the embeddings
  Tensor right;                // [entries, partners] int64, -1: no pair
  Tensor gradient;             // [entries, partners], compute type
};

// The gradients of the embeddings and refs, in their dtypes; empty if not needed. nan_if_not_finite: all gradients are
// NaN if some row or norm is not finite, as the loss is.
std::tuple<Tensor, Tensor> pair_gradient_tensors(const PairMeasure& measure, const PairTensors& pairs,
                                                 const Tensor& embeddings, const std::optional<Tensor>& ref_embeddings,
                                                 bool need_embeddings, bool need_ref_embeddings,
                                                 bool nan_if_not_finite);

// The pairs of a selection, from indices and gradients of positives and negatives, all [B].
PairTensors selected_pair_tensors(const Tensor& positive_index, const Tensor& negative_index,
                                  const Tensor& grad_positive, const Tensor& grad_negative, int64_t count,
                                  ScalarType type);

}  // namespace hardmine::cpu
