// Exceptions that end an op early. torch_bridge.h translates them for Python.
#pragma once

#include <cstdint>
#include <exception>
#include <memory>
#include <new>
#include <string>

namespace hardmine {

// The caller no longer wants the result.
class Cancelled : public std::exception {
 public:
  const char* what() const noexcept override { return "cancelled"; }
};

class AllocationError : public std::bad_alloc {
 public:
  explicit AllocationError(const std::string& text) : text_(std::make_shared<std::string>(text)) {}
  const char* what() const noexcept override { return text_->c_str(); }

 private:
  std::shared_ptr<const std::string> text_;  // shared, so that copies do not throw
};

[[noreturn]] inline void fail_to_allocate_workspace(uint64_t bytes) {
  throw AllocationError("cannot allocate " + std::to_string(bytes) + " bytes of workspace");
}

}  // namespace hardmine
