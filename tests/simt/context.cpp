#include "simt/context.h"

#include <sys/mman.h>

#include <cstdint>
#include <new>
#include <vector>

#include "simt/sanitizers.h"

#if !defined(__x86_64__)
#error "The emulator switches stacks in x86-64 assembly; write switch_stack for this processor"
#endif

// Saves the registers that a call keeps, changes the stack, and restores those saved on the other one.
extern "C" void aoq_simt_switch_stack(void** from, void* to);
asm(R"(
.text
.type aoq_simt_switch_stack, @function
.hidden aoq_simt_switch_stack
.globl aoq_simt_switch_stack
aoq_simt_switch_stack:
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
.size aoq_simt_switch_stack, . - aoq_simt_switch_stack
)");

namespace aoq::simt {

constexpr size_t kGuardBytes = 4096;  // below the stack: running over its end stops the process there and then
constexpr int kSavedRegisters = 6;

static std::vector<void*> spare_stacks;  // for the next launch

static void* take_stack() {
  if (!spare_stacks.empty()) {
    void* memory = spare_stacks.back();
    spare_stacks.pop_back();
    return memory;
  }
  void* memory = mmap(nullptr, kStackBytes + kGuardBytes, PROT_READ | PROT_WRITE,
                      MAP_PRIVATE | MAP_ANONYMOUS | MAP_NORESERVE, -1, 0);
  if (memory == MAP_FAILED || mprotect(memory, kGuardBytes, PROT_NONE) != 0) throw std::bad_alloc();
  return memory;
}

Context::~Context() {
  if (memory_ == nullptr) return;
#if defined(__SANITIZE_ADDRESS__)
  __asan_unpoison_memory_region(stack_, stack_bytes_);  // an abandoned run leaves its frames marked
#endif
  destroy_fiber(sanitizer_fiber);
  spare_stacks.push_back(memory_);
}

void Context::start(void (*entry)()) {
  if (memory_ == nullptr) {
    memory_ = take_stack();
    stack_ = static_cast<char*>(memory_) + kGuardBytes;
    stack_bytes_ = kStackBytes;
  }
  if (sanitizer_fiber == nullptr) sanitizer_fiber = create_fiber();
  // As switch_stack expects it, and above that the return address that entry expects.
  void** top = reinterpret_cast<void**>(stack_ + stack_bytes_);
  *--top = nullptr;
  *--top = reinterpret_cast<void*>(entry);
  for (int i = 0; i < kSavedRegisters; ++i) *--top = nullptr;
  stack_pointer_ = top;
}

void Context::entered([[maybe_unused]] Context& starter) {
#if defined(__SANITIZE_ADDRESS__)
  const void* bottom = nullptr;
  size_t bytes = 0;
  __sanitizer_finish_switch_fiber(nullptr, &bottom, &bytes);
  if (starter.stack_ == nullptr) {
    starter.stack_ = static_cast<char*>(const_cast<void*>(bottom));
    starter.stack_bytes_ = bytes;
  }
#endif
}

void Context::switch_to(Context& to, [[maybe_unused]] bool last) {
#if defined(__SANITIZE_ADDRESS__)
  __sanitizer_start_switch_fiber(last ? nullptr : &fake_stack_, to.stack_, to.stack_bytes_);
#endif
  switch_fiber(to.sanitizer_fiber);
  aoq_simt_switch_stack(&stack_pointer_, to.stack_pointer_);
#if defined(__SANITIZE_ADDRESS__)
  __sanitizer_finish_switch_fiber(fake_stack_, nullptr, nullptr);
#endif
}

}  // namespace aoq::simt
