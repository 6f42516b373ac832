// Python's signals, for ops that run for so long that Ctrl-C must end them.
#pragma once

namespace hardmine::cpu {

// Runs the handlers of the signals that have come in, as Python does between two steps of a program. If one raises,
// returns true: Python raises that exception as soon as the op has returned, before anybody sees what it returned.
// Does nothing in a process without Python, and on any thread but the main one, where handlers do not run.
bool python_signal_raised();

}  // namespace hardmine::cpu
