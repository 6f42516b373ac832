// Python's signals, so that Ctrl-C ends a long op.
#pragma once

namespace hardmine::cpu {

// Runs the Python handlers of pending signals. Returns true if one raised: Python raises that exception as soon as the
// op has returned. Without Python, and on other threads than the main thread, it does nothing and returns false.
bool python_signal_raised();

}  // namespace hardmine::cpu
