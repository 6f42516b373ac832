// Functions of Python's stable ABI, looked up at run time: one library serves every Python, and programs without
// Python.
#include "cpu/ops/python_signals.h"

#include <dlfcn.h>
#include <pthread.h>
#include <unistd.h>
#ifdef __linux__
#include <sys/syscall.h>
#endif

#include <memory>

namespace hardmine::cpu {
namespace {

struct Object;  // PyObject

struct Python {
  int (*is_initialized)();
  int (*ensure_gil)();
  void (*release_gil)(int);
  int (*check_signals)();
  void (*fetch_error)(Object**, Object**, Object**);
  void (*restore_error)(Object*, Object*, Object*);
  void (*release)(Object*);  // ignores null
  int (*add_pending_call)(int (*)(void*), void*);
  void (*set_interrupt)();
  bool found = true;

  Python() {
    find("Py_IsInitialized", is_initialized);
    find("PyGILState_Ensure", ensure_gil);
    find("PyGILState_Release", release_gil);
    find("PyErr_CheckSignals", check_signals);
    find("PyErr_Fetch", fetch_error);
    find("PyErr_Restore", restore_error);
    find("Py_DecRef", release);
    find("Py_AddPendingCall", add_pending_call);
    find("PyErr_SetInterrupt", set_interrupt);
  }

 private:
  template <class Function>
  void find(const char* name, Function& function) {
    function = reinterpret_cast<Function>(dlsym(RTLD_DEFAULT, name));
    found &= function != nullptr;
  }
};

const Python& python() {
  static const Python functions;
  return functions;
}

// True on the main thread of the process. It is Python's main thread, unless Python was started on another thread. Then
// signals are handled after the op.
bool on_main_thread() {
#ifdef __linux__
  return syscall(SYS_gettid) == getpid();
#else
  return pthread_main_np() != 0;
#endif
}

struct Raised {
  Object *type, *value, *traceback;
};

int raise(void* exception) {
  const Raised raised = *static_cast<Raised*>(exception);
  delete static_cast<Raised*>(exception);
  python().restore_error(raised.type, raised.value, raised.traceback);
  return -1;
}

}  // namespace

bool python_signal_raised() {
  if (!python().found || !python().is_initialized() || !on_main_thread()) return false;
  const int gil = python().ensure_gil();
  const bool raised = python().check_signals() != 0;
  if (raised) {
    auto exception = std::make_unique<Raised>();
    python().fetch_error(&exception->type, &exception->value, &exception->traceback);
    // No error may be set while the op returns. A pending call raises the exception on the main thread, before the
    // caller of the op continues. If the queue of pending calls is full, a new Ctrl-C replaces the exception.
    if (python().add_pending_call(raise, exception.get()) == 0) {
      (void)exception.release();  // now owned by the pending call
    } else {
      for (Object* reference : {exception->type, exception->value, exception->traceback}) python().release(reference);
      python().set_interrupt();
    }
  }
  python().release_gil(gil);
  return raised;
}

}  // namespace hardmine::cpu
