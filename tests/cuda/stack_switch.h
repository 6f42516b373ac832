// Stack switching for fibers.
//
// On x86-64 by hand: swapcontext asks the kernel for the signal mask each time, and AddressSanitizer's version of it
// marks the whole stack as usable. Together they took five sixths of these tests' time.
#pragma once

#include <cstddef>
#include <cstdint>

#ifdef __x86_64__

// Pushes the callee-saved registers, stores the stack pointer in *from, and resumes at `to`.
extern "C" void hardmine_switch_stack(void** from, void* to);
asm(R"(
  .text
  .type hardmine_switch_stack, @function
hardmine_switch_stack:
  pushq %rbp
  pushq %rbx
  pushq %r12
  pushq %r13
  pushq %r14
  pushq %r15
  movq %rsp, (%rdi)
  movq %rsi, %rsp
  popq %r15
  popq %r14
  popq %r13
  popq %r12
  popq %rbx
  popq %rbp
  ret
  .size hardmine_switch_stack, . - hardmine_switch_stack
)");

namespace hardmine::cuda::emulation {

struct Context {
  void* top = nullptr;
};

// Prepares `context` to start `entry`, which must not return, on a stack of `size` bytes.
inline void prepare_context(Context& context, char* stack, size_t size, void (*entry)()) {
  auto* top = reinterpret_cast<uintptr_t*>((reinterpret_cast<uintptr_t>(stack) + size) & ~uintptr_t{15});
  *--top = 0;  // return address of `entry`, for the alignment that a call leaves
  *--top = reinterpret_cast<uintptr_t>(entry);
  for (int kept = 0; kept < 6; ++kept) *--top = 0;
  context.top = top;
}

inline void switch_context(Context& from, const Context& to) { hardmine_switch_stack(&from.top, to.top); }

}  // namespace hardmine::cuda::emulation

#else

#include <ucontext.h>

namespace hardmine::cuda::emulation {

using Context = ucontext_t;

inline void prepare_context(Context& context, char* stack, size_t size, void (*entry)()) {
  getcontext(&context);
  context.uc_stack.ss_sp = stack;
  context.uc_stack.ss_size = size;
  context.uc_link = nullptr;
  makecontext(&context, entry, 0);
}

inline void switch_context(Context& from, const Context& to) { swapcontext(&from, &to); }

}  // namespace hardmine::cuda::emulation

#endif
